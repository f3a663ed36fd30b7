"""The redisai-server command: starts redis-server, or valkey-server, with this module loaded.

Owns the command line only. It runs in a process of its own, never inside redis-server. It imports neither NumPy nor the
engine, so that it can still report a useful error where those are broken.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

SERVERS = ("redis-server", "valkey-server")
MIN_VERSION = (7, 0)
MODULE = Path(__file__).resolve().parent.parent / "redisai.so"


def fail(message: str) -> NoReturn:
    sys.exit(f"redisai-server: {message}")


def version_of(server: str) -> tuple[int, ...] | None:
    """The version of a server: (7, 0, 15) where `server --version` prints v=7.0.15; None where it prints none."""
    try:
        answer = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", answer)
    return tuple(int(part) for part in found[1].split(".")) if found else None


def find_server() -> str:
    """The first server on PATH that is new enough."""
    wanted = "Redis 7.0 or later, or Valkey"
    refused = []
    for name in SERVERS:
        server = shutil.which(name)
        if server is None:
            continue
        version = version_of(server)
        if version is not None and version >= MIN_VERSION:
            return server
        found = "did not tell its version" if version is None else "is version " + ".".join(map(str, version))
        refused.append(f"{server} {found}")
    if refused:
        fail(f"{' and '.join(refused)}, but {wanted}, is needed.")
    fail(f"neither {' nor '.join(SERVERS)} is on PATH; install {wanted} (Debian, Ubuntu: apt install redis-server).")


def main() -> NoReturn:
    arguments = sys.argv[1:]
    if not MODULE.is_file():
        fail(f"{MODULE} is missing; install the package again: pip install --force-reinstall redisai-module.")
    if arguments == ["--module-path"]:
        print(MODULE)
        sys.exit()
    server = find_server()
    # The options go to the end, because Redis takes the first argument as its configuration file. A lone "-"
    # (configuration on stdin) counts only as first or last argument, so it stays last.
    end = len(arguments) - (arguments[-1:] == ["-"])
    arguments[end:end] = ["--loadmodule", str(MODULE)]
    try:
        os.execv(server, [server, *arguments])
    except OSError as error:
        fail(f"cannot start {server}: {error.strerror}.")


if __name__ == "__main__":
    main()
