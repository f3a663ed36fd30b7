"""docs/migrating.md: its commands move a database, while programs go on writing, and nothing acknowledged is lost.

No server of 1.2.x can be had, so one with this module stands in for it. That what 1.2.x writes is read, is for other
tests: tests/persistence/test_saved_layouts.py, tests/commands.
"""

from __future__ import annotations

import subprocess
from threading import Event, Thread

from testkit import models, samples
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import StartServer
from tests.tools.test_docs import ROOT, cli

PAGE = "docs/migrating.md"
SERVER = "~/redisai-venv/bin/redisai-server "


def commands(section: str) -> list[str]:
    """The blocks of shell below a heading; those in lists are indented."""
    text = (ROOT / PAGE).read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    parts = text.split("```sh\n")[1:]
    return ["\n".join(line.strip() for line in part.split("```")[0].splitlines()) for part in parts]


def shell(text: str, old: Server, new: Server | None = None) -> str:
    """What these commands print with the ports of the two servers."""
    text = text.replace("redis-cli", cli()).replace("6379", str(old.port))
    text = text.replace("6380", str(new.port)) if new else text
    return subprocess.run(["bash", "-euc", text], capture_output=True, text=True, timeout=60, check=True).stdout


def fill(wire: Wire) -> None:
    samples.fill(wire)
    for key in samples.MODELS:
        if key not in samples.RUNNABLE:
            wire.ask("DEL", key)
    assert wire.ask("AI.MODELSTORE", "fahrenheit", "ONNX", "CPU", "BLOB", models.onnx_identity()) == b"OK"
    assert wire.ask("AI.TENSORSET", "celsius", "FLOAT", 2, "VALUES", 37, 100) == b"OK"


class Writer(Thread):
    """Counts in the database until its server ends."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.acknowledged = 0
        self.begun = Event()

    def run(self) -> None:
        try:
            with Wire(self.port) as wire:
                while True:
                    number = self.acknowledged + 1
                    assert wire.ask("AI.TENSORSET", "count", "INT64", 1, "VALUES", number) == b"OK"
                    self.acknowledged = number
                    self.begun.set()
        except OSError:
            return


def count(wire: Wire) -> int:
    return int(wire.ask("AI.TENSORGET", "count", "VALUES")[0])


def test_by_replication(start_server: StartServer) -> None:
    old = start_server("--repl-diskless-sync-delay", "0")
    with old.wire() as wire:
        fill(wire)
    starting, comparing, trying, switching, ending = commands("By replication")
    folder, starting = starting.splitlines()  # the test's own is new, too
    assert folder == "mkdir -p ~/redisai-data && cd ~/redisai-data"
    assert starting.startswith(f"{SERVER}--port 6380 ")
    new = start_server(*starting.removeprefix(f"{SERVER}--port 6380 ").replace("6379", str(old.port)).split())
    compared = shell(comparing, old, new).splitlines()
    assert compared[:2] == compared[2:] and int(compared[0]) > 20
    assert shell(trying, old, new).split() == ["OK", "37", "100"]

    writer = Writer(old.port)
    writer.start()
    assert writer.begun.wait(30)
    assert shell(switching, old, new).split() == ["OK", "OK"]
    acknowledged = writer.acknowledged
    with new.wire() as wire, old.wire() as reader:
        assert count(wire) == count(reader) == acknowledged > 0
        assert wire.ask("ROLE")[0] == b"master"
        samples.run_all(wire)
        assert wire.ask("AI.TENSORSET", "count", "INT64", 1, "VALUES", 0) == b"OK"
    shell(ending, old)
    writer.join(30)
    assert not writer.is_alive() and writer.acknowledged == acknowledged, "no write was acknowledged after the switch"
    assert (old.folder / "dump.rdb").exists()


def test_by_files(start_server: StartServer) -> None:
    old = start_server()
    with old.wire() as wire:
        fill(wire)
        before = samples.contents(wire)
    (block,) = commands("By files")
    ending, starting = block.splitlines()
    shell(ending, old)
    wait_for(lambda: old.process is None or old.process.poll() is not None, what="the old server ends")
    assert starting.replace("/var/lib/redis", str(old.folder)).endswith(f"--dir {old.folder}")
    new = start_server(folder=old.folder)
    with new.wire() as wire:
        wait_for(lambda: samples.contents(wire) == before, what="the database is as it was, its models compiled")
