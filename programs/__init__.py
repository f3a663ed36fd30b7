"""Programs beside the module: each is a client of a server and knows nothing of the module's own code.

Each has the name of the extra in pyproject.toml that brings what it needs.
"""

import importlib
import sys


def _start(name: str) -> int:
    try:
        program = importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        sys.exit(f"redisai-{name}: {error}; in the checkout, run `{sys.prefix}/bin/pip install '.[{name}]'`")
    return int(program.main())


def redisai_load() -> int:
    return _start("load")


def redisai_exporter() -> int:
    return _start("exporter")


def redisai_http() -> int:
    return _start("http")


def redisai_top() -> int:
    return _start("top")
