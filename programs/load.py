"""The redisai-load command: puts the models of folders and files into a server. docs/load.md is its manual.

A model is stored under a temporary key and copied onto its own: clients get the old version or the new one, and the
old one stays where the new one cannot be compiled.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import Any, TypeAlias

import redis
import rich.console
from redis.exceptions import RedisClusterException
from redisai_module.client import RedisAI

from .address import add_url, without_password
from .models import Broken, Model, Unusable, find

Failure = (Unusable, OSError, redis.RedisError, RedisClusterException)
State: TypeAlias = tuple[str, tuple[tuple[int, int] | None, ...]]


def temporary_key(key: str) -> str:
    """A key in the hash slot of another: in a cluster, COPY needs both in one slot.

    There is one for each key, so the next redisai-load deletes what one that was killed has left.
    """
    _, _, after = key.partition("{")
    tag, closing, _ = after.partition("}")
    return f"{{{tag if tag and closing else key}}}:redisai-load"


def load(client: Any, model: Model, device: str) -> str:
    """Stores one model, swaps it in and returns a line that says what was stored."""
    begun = time.monotonic()
    held = client.execute_command("TYPE", model.key).decode()
    if held not in ("none", "AI__MODEL"):
        raise Unusable(f"would replace the key {model.key}, a {held}; delete that, or choose another key")
    settings = {"device": device, **model.settings}
    temporary = temporary_key(model.key)
    try:
        RedisAI(client).model_store(temporary, model.path, **settings)
        if not client.copy(temporary, model.key, replace=True):
            raise Unusable(f"was stored by another redisai-load at the same time; load {model.key} again")
    finally:
        with contextlib.suppress(*Failure):
            client.delete(temporary)
    megabytes, seconds = model.path.stat().st_size / 1e6, time.monotonic() - begun
    words = [settings["backend"], settings["device"], *(["tag", settings["tag"]] if "tag" in settings else [])]
    return f"{model.key}: {' '.join(words)}, {megabytes:.1f} MB in {seconds:.1f} s"


def describe(error: BaseException) -> str:
    text = str(error)
    if "unknown command" in text:
        return "the server has not loaded the module; redisai-server starts one that has"
    return text or type(error).__name__


def state_of(item: Model | Broken) -> State:
    """Changes when a file does that the item was read from."""
    stats = [path.stat() if path.exists() else None for path in item.read]
    return repr(item), tuple(stat and (stat.st_mtime_ns, stat.st_size) for stat in stats)


class Loader:
    def __init__(self, client: Any, paths: list[Path], device: str) -> None:
        self.client = client
        self.paths = paths
        self.device = device
        self.out = rich.console.Console(soft_wrap=True, highlight=False, markup=False)
        self.states: set[State] = set()  # as the last round found them
        self.tried: set[State] = set()

    def fail(self, path: Path, error: str) -> None:
        print(f"redisai-load: {path}: {error}", file=sys.stderr, flush=True)

    def round(self, only_settled: bool = False) -> int:
        """Loads what was not tried yet; of that, only what has not changed since the last round, as a file does while
        it is written. Returns the exit status."""
        loaded, failed, states = 0, 0, set()
        owners: dict[str, Path] = {}
        for item in find(self.paths):
            if isinstance(item, Model) and (owner := owners.setdefault(item.key, item.path)) != item.path:
                error = f"has the key {item.key}, as {owner} does; name another key in its settings"
                item = Broken(item.path, error, item.read)
            state = state_of(item)
            states.add(state)
            if state in self.tried or (only_settled and state not in self.states):
                continue
            self.tried.add(state)
            if self.load(item):
                loaded += 1
            else:
                failed += 1
        self.states = states
        self.tried &= states
        if loaded or failed:
            self.out.print(f"{loaded} loaded, {failed} failed")
        return 1 if failed else 0

    def load(self, item: Model | Broken) -> bool:
        if isinstance(item, Broken):
            self.fail(item.path, item.error)
            return False
        try:
            with self.out.status(f"{item.key}: {item.path.stat().st_size / 1e6:.1f} MB"):  # on a terminal only
                line = load(self.client, item, self.device)
        except Failure as error:
            self.fail(item.path, describe(error))
            return False
        self.out.print(line)
        for problem in item.problems:
            self.out.print(f"{item.key}: {problem}")
        return True

    def watch(self) -> None:
        # Looking each second also works where a file system tells nobody of changes, as NFS.
        self.out.print("watching for changes; Ctrl-C ends this")
        while True:
            time.sleep(1)
            with contextlib.suppress(FileNotFoundError):  # removed while it was looked at: the next round sees it
                self.round(only_settled=True)


def connect(url: str, in_cluster: bool) -> Any:
    # Compiling a large model takes minutes, without a byte from the server: so there is no limit for an answer.
    kind = redis.RedisCluster if in_cluster else redis.Redis
    client: Any = kind.from_url(url, socket_timeout=None, socket_connect_timeout=10)
    client.ping()
    return client


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="redisai-load", description="Puts the models of folders and files into a server with the module."
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR|FILE", help="where the models are")
    add_url(parser)
    parser.add_argument("--cluster", action="store_true", help="the server is a node of a Redis Cluster")
    parser.add_argument("--device", default="CPU", help="of models that name none (default: CPU)")
    parser.add_argument("--watch", action="store_true", help="go on, and load again what changes")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no temporary key stays
    try:
        try:
            client = connect(options.url, options.cluster)
        except (*Failure, ValueError) as error:
            print(f"redisai-load: {without_password(options.url)}: {describe(error)}", file=sys.stderr)
            return 1
        loader = Loader(client, options.paths, options.device)
        status = loader.round()
        if options.watch:
            loader.watch()
        if not loader.states:
            loader.fail(options.paths[0], "has no models; docs/load.md says how their files are named")
            status = 1
        return status
    except KeyboardInterrupt:
        return 0 if options.watch else 130
    except OSError as error:  # of a folder
        print(f"redisai-load: {error}", file=sys.stderr)
        return 1
