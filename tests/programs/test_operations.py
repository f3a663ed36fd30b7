"""docs/operations.md: its commands do what it says. Its sessions are for tests/tools/test_docs.py."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from testkit import models
from testkit.server import Client, Server
from testkit.waiting import wait_for
from tests.conftest import StartServer
from tests.programs.test_exporter import names
from tests.tools.test_docs import ROOT, cli

PAGE = (ROOT / "docs/operations.md").read_text()


def commands(section: str) -> list[str]:
    """The blocks of shell below a heading; those in lists are indented."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return ["\n".join(line.strip() for line in block.splitlines()) for block in blocks]


def shell(text: str, folder: Path, old: Server, new: Server | None = None) -> str:
    """What these commands print with the ports of the two servers. A command that names none means the old one."""
    text = re.sub(r"redis-cli (?!-p)", "redis-cli -p 6379 ", text)
    text = text.replace("redis-cli", cli()).replace("6379", str(old.port))
    text = text.replace("6380", str(new.port)) if new else text
    words = ["bash", "-euc", text]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=True).stdout


def fill(r: Client) -> None:
    """A model with a limit, and its input. More kinds of values are for tests/replication and tests/persistence."""
    r.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "MAXQUEUE", 9, "BLOB", models.onnx_identity())
    r.execute_command("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 37, 100)


def check(r: Client) -> None:
    r.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert r.execute_command("AI.TENSORGET", "y", "VALUES") == [b"37", b"100"]
    assert b"maxqueue" in r.execute_command("AI.MODELGET", "m", "META")


def test_alerts() -> None:
    """Each alert has its section, and no others have one."""
    assert set(re.findall(r"^### (Redisai\w+)$", PAGE, re.MULTILINE)) == names()


def test_memory(server: Server, tmp_path: Path) -> None:
    (block,) = commands("Threads and memory")
    lines = [line.split(":")[0] for line in shell(block, tmp_path, server).splitlines()]
    assert lines == ["used_memory", "maxmemory", "ai_backends_memory"]


def test_upgrade(start_server: StartServer, tmp_path: Path) -> None:
    """The new server has everything, and is the master; the old one follows until it ends."""
    old = start_server("--repl-diskless-sync-delay", "0")
    with old.client() as r:
        fill(r)
    starting, waiting, taking_over, ending = commands("Upgrades and failover")
    program, _, words = starting.partition(" --port 6380 ")
    assert program == "~/redisai-new/bin/redisai-server"
    new = start_server(*words.replace("6379", str(old.port)).split())
    shell(waiting, tmp_path, old, new)
    shell(taking_over, tmp_path, old, new)
    with new.client() as r, old.wire() as follower:
        assert r.execute_command("ROLE")[0] == b"master"
        wait_for(lambda: follower.ask("ROLE")[0] == b"slave", what="the old one follows")
        check(r)
    shell(ending, tmp_path, old, new)
    wait_for(lambda: old.process is None or old.process.poll() is not None, what="the old server ends")


def test_backup(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--repl-diskless-sync-delay", "0")
    with server.client() as r:
        fill(r)
    fetching, starting, appending = commands("Backups")
    shell(fetching, tmp_path, server)
    copying, starting = starting.splitlines()
    shell(copying, tmp_path, server)
    assert starting == "redisai-server --port 6380 --dir restored"
    again = start_server(folder=tmp_path / "restored")
    with again.client() as r:
        check(r)
    shell(appending, tmp_path, server, again)
    wait_for(lambda: (tmp_path / "restored/appendonlydir").exists(), what="it writes an AOF")
