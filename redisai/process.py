"""An engine process: models of one device run here, apart from the server (src/isolation/).

The server starts `python process.py <redisai.so> <device>`. The engine is the same as in the server's own process.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path


def main() -> None:
    module = Path(sys.argv[1])
    loader = importlib.machinery.ExtensionFileLoader("_redisai_bridge", str(module))
    spec = importlib.util.spec_from_file_location("_redisai_bridge", module, loader=loader)
    assert spec is not None
    bridge = importlib.util.module_from_spec(spec)
    loader.exec_module(bridge)
    sys.modules["_redisai_bridge"] = bridge
    bridge.lib.bridge_enter_process()
    sys.path.insert(0, str(module.parent))
    try:
        from redisai.sandbox import enter

        enter()
    except BaseException as error:
        bridge.lib.bridge_log(b"warning", f"the sandbox cannot be entered: {error!r}".encode(errors="replace"))
        raise
    bridge.lib.bridge_serve()
    from redisai.engine import main as run

    run()


if __name__ == "__main__":
    main()
