"""Compiles runner.cpp against the PyTorch that is installed: redisai-server --build-torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

try:
    import torch
except ModuleNotFoundError:
    sys.exit(f"redisai-server: PyTorch is not installed. Run `{sys.prefix}/bin/pip install torch`.")

SOURCE = Path(__file__).with_name("runner.cpp")


def library_path() -> Path:
    """Named after what must fit: PyTorch, whose C++ interface changes with each version, and our sources."""
    sources = sorted([*SOURCE.parent.glob("*.cpp"), *SOURCE.parent.glob("*.h")])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return SOURCE.with_name(f"runner-{torch.__version__}-{digest[:8]}.so")


def main() -> None:
    library = library_path()
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        sys.exit("redisai-server: there is no C++ compiler. On Debian and Ubuntu: apt install g++.")
    home = Path(torch.__file__).parent
    partial = library.with_suffix(f".{os.getpid()}")
    abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
    command = [compiler, "-O2", "-std=c++20", "-fPIC", "-shared", "-w", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    for folder in ("include", "include/torch/csrc/api/include"):
        command += ["-isystem", str(home / folder)]
    command += [str(SOURCE), f"-L{home}/lib", "-ltorch_cpu", "-lc10", "-o", str(partial)]
    try:
        if subprocess.run(command).returncode:
            sys.exit(
                f"redisai-server: {compiler} could not build the runner for PyTorch {torch.__version__}; see above."
            )
        for old in SOURCE.parent.glob("runner-*.so"):
            old.unlink()
        partial.rename(library)
    except OSError as error:
        sys.exit(f"redisai-server: cannot build {library}: {error.strerror}.")
    finally:
        partial.unlink(missing_ok=True)
    print(f"From the server's next start on, models and scripts of PyTorch {torch.__version__} run without Python.")


if __name__ == "__main__":
    main()
