"""The flow process: when the server starts and ends it, and what becomes of those who wait."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testkit import rdb
from testkit.replicas import FakeMaster, follow
from testkit.server import ServerExit, free_port, program
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer
from tests.flows.kit import FLOWS, Process, figures, is_error, start

ROOT = Path(__file__).resolve().parents[2]
NO_DELAY = ("--repl-diskless-sync-delay", "0")


def is_gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()  # whose parent has not asked for its status
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_it_is_told(flows: Process, wire: Wire) -> None:
    told, folder = flows.told, flows.server.folder
    assert len(flows.secret) == 64
    assert (told["host"], told["port"], told["dir"]) == (
        "127.0.0.1",
        str(flows.server.port),
        f"{folder}/flows-packages",
    )
    assert told["module_folder"] == str(next(iter(flows.server.module.parents))) if flows.server.module else False
    assert told["memory_limit"] == "0"
    assert len(told["node_id"]) == 40
    assert os.getpgid(flows.pid) == flows.pid
    assert {path.name for path in Path(f"/proc/{flows.pid}/fd").iterdir()} >= {"0", "1", "2", "3"}
    assert os.readlink(f"/proc/{flows.pid}/fd/0") == "/dev/null"
    found = figures(wire)
    assert {**found, "starts": "", "deaths": "", "events_dropped": "", "last_death": ""} == {
        "process": "up", "pid": str(flows.pid), "starts": "", "deaths": "", "registered": "0", "requests_waiting": "0",
        "events_waiting": "0", "events_dropped": "", "last_death": "",
    }  # fmt: skip


def test_off(wire: Wire, start_server: StartServer) -> None:
    with start_server().wire() as off:
        for words in (("RG.PYEXECUTE", "x"), ("RG.TRIGGER", "t"), ("RG._PROCESS", "NEXT"), ("RG._FLOW", "i")):
            assert off.ask(*words) == "ERR flows are off: load the module with FLOWS yes"
        assert b"ai_flows" not in off.ask("INFO", "MODULES").replace(b"ai_flows:no", b"").replace(
            b"ai_flows_memory", b""
        )


def test_it_starts_when_it_is_needed(start_server: StartServer, module: Path) -> None:
    server = start_server(module=module, options=[*FLOWS, "FLOWS_MEMORY_LIMIT", 100])
    with server.wire() as wire:
        assert (figures(wire)["process"], figures(wire)["starts"]) == ("down", "0")
        flows = start(server)
        assert flows.told["memory_limit"] == "100000000"
        assert figures(wire)["process"] == "up"
    assert server.stop() == 0
    wait_for(lambda: is_gone(flows.pid), what="it ends with the server")


def test_it_is_killed(start_server: StartServer, module: Path) -> None:
    """Those who wait get an error; it comes again; strangers cannot use what the dead one has left."""
    server = start_server(module=module, options=FLOWS)
    with server.wire() as wire, server.wire() as first, server.wire() as second:
        flows = start(server)
        own = flows.user()
        assert flows.do("HOOKS", "get", "") == b"OK"
        assert flows.do("WATCH", "keys", 0, "", "prefix", "") == b"OK"
        first.send("RG.TRIGGER", "is worked on")
        flows.next()
        second.send("RG.TRIGGER", "waits")
        wait_for(lambda: figures(wire)["requests_waiting"] == "2")
        os.kill(flows.pid, signal.SIGKILL)
        for client in (first, second):
            assert client.read() == "ERR the flow process ended: SIGKILL; see the server's log"
        for connection in (own, flows.control):
            with pytest.raises((ConnectionError, OSError)):
                connection.ask("PING")
        assert is_error(wire.ask("RG._PROCESS", "CONNECT", flows.secret), "NOPERM ")
        assert wire.ask("GET", "k") is None, "its hooks are gone"
        wait_for(lambda: figures(wire)["starts"] == "2")
        again = Process(server)
        assert again.secret != flows.secret
        assert (figures(wire)["deaths"], figures(wire)["last_death"]) == ("1", "SIGKILL")
        first.send("RG.TRIGGER", "t")
        ((_, number, *_),) = again.next()
        again.reply(number, ":1")
        assert first.read() == 1
        wire.ask("SET", "k", 1)
        assert figures(wire)["events_waiting"] == "0"


def test_it_cannot_start(start_server: StartServer, module: Path, tmp_path: Path) -> None:
    (tmp_path / "server0/flows-packages").mkdir(parents=True)
    (tmp_path / "server0/flows-packages/fails").touch()
    server = start_server(module=module, options=FLOWS)
    with server.wire() as wire:
        for _ in range(2):
            assert wire.ask("RG.TRIGGER", "t") == "ERR the flow process ended: exit status 7; see the server's log"
        assert "the flow process ended: exit status 7" in server.log()


def test_its_packages_are_missing() -> None:
    """-S: without what is installed."""
    done = subprocess.run(
        [sys.executable, "-ISB", ROOT / "flows/process.py"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    advice = r"FLOWS yes needs the module's extra flows: No module named '(\w+)'; \S+python\S* -m pip install \1\n"
    assert re.fullmatch(advice, done.stderr)


def test_a_python_that_is_missing(start_server: StartServer) -> None:
    with pytest.raises(ServerExit, match="no Python interpreter at '/nowhere'"):
        start_server(options=["FLOWS", "yes", "PYTHON", "/nowhere"])


# ---- the registry ----------------------------------------------------------------------------------------------------

PAYLOADS = {b"one": b"\x00payload\r\n", b"two": b"", b"three": bytes(100_000)}


def save(flows: Process) -> None:
    for name, payload in PAYLOADS.items():
        flows.control.ask_ok("RG._FLOW", name, b"before")
        flows.control.ask_ok("RG._FLOW", name, payload)
    flows.control.ask_ok("RG._FLOW", "four", "gone")
    flows.control.ask_ok("RG._FLOW", "four")
    flows.control.ask_ok("RG._FLOW", "never there")


def loaded(flows: Process) -> dict[bytes, bytes]:
    words = flows.do("LOAD")
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize("how", ["rdb", "aof", "rewritten"])
def test_it_is_kept(start_server: StartServer, module: Path, how: str) -> None:
    options = ["--appendonly", "yes", "--appendfsync", "always"] if how != "rdb" else []
    server = start_server(*options, module=module, options=FLOWS)
    flows = start(server)
    save(flows)
    assert loaded(flows) == PAYLOADS
    with server.wire() as wire:
        if how == "rdb":
            wire.ask_ok("SAVE")
        if how == "rewritten":
            wire.ask("BGREWRITEAOF")
            wait_for(lambda: "aof_rewrite_in_progress:0" in wire.ask("INFO", "persistence").decode())
    server.restart(signal.SIGKILL)
    again = Process(server)  # it starts without being asked
    assert loaded(again) == PAYLOADS
    with server.wire() as wire:
        wire.ask_ok("FLUSHALL")
        assert figures(wire)["registered"] == "3"
        before = again.pid
        wire.ask_ok("DEBUG", "RELOAD")
        wait_for(lambda: figures(wire)["pid"] not in (str(before), "0"), what="other data, another process")
    assert loaded(Process(server)) == PAYLOADS


def test_replicas(start_server: StartServer, module: Path) -> None:
    """They keep the registry, and run nothing until they are promoted."""
    master, replica = (start_server(*NO_DELAY, module=module, options=FLOWS) for _ in range(2))
    flows = start(master)
    flows.control.ask_ok("RG._FLOW", "one", "by file")
    second = start(replica)
    second.control.ask_ok("RG._FLOW", "other", "x")
    follow(replica, master)
    flows.control.ask_ok("RG._FLOW", "two", "by stream")
    with replica.wire() as wire, master.wire() as old:
        wait_for(lambda: figures(wire)["process"] == "down")
        wait_for(lambda: is_gone(second.pid))
        assert wire.ask("RG.TRIGGER", "t") == "READONLY flows run on the master, and this is a replica"
        wait_for(lambda: figures(wire)["registered"] == "2")
        old.send("RG.TRIGGER", "waits")
        flows.next()
        with master.wire() as operator:
            operator.ask_ok("REPLICAOF", "127.0.0.1", replica.port)
            assert old.read().startswith(("READONLY ", "UNBLOCKED ")), "the server may be faster"
            wait_for(lambda: is_gone(flows.pid))
            wait_for(lambda: figures(operator)["process"] == "down")
        wire.ask_ok("REPLICAOF", "NO", "ONE")
        third = Process(replica)
        assert loaded(third) == {b"one": b"by file", b"two": b"by stream"}


def test_a_replica_whose_flows_are_off(start_server: StartServer, module: Path) -> None:
    if program().name == "redis" and program().version < (7, 2):
        pytest.skip("this server saves data beside keys only with FLOWS yes")
    master, replica = start_server(*NO_DELAY, module=module, options=FLOWS), start_server(module=module)
    flows = start(master)
    flows.control.ask_ok("RG._FLOW", "one", "by file")
    follow(replica, master)
    flows.control.ask_ok("RG._FLOW", "two", "by stream")
    with master.wire() as wire:
        assert wire.ask("WAIT", 1, 10_000) == 1
    with replica.wire() as wire:
        wire.ask_ok("REPLICAOF", "NO", "ONE")
        wire.ask_ok("SAVE")
    replica.stop()
    with_flows = start_server(module=module, options=FLOWS, folder=replica.folder)
    assert loaded(Process(with_flows)) == {b"one": b"by file", b"two": b"by stream"}


GOOD: list[rdb.Field] = [2, b"one", b"1", b"two", b""]
BROKEN: list[tuple[int, list[rdb.Field]]] = [
    (0, GOOD[:-1]),
    (0, [3, *GOOD[1:]]),
    (0, [2**64 - 1, *GOOD[1:]]),
    (0, [b"two", *GOOD[1:]]),
    (0, [1, 7, b"1"]),
    (0, [1, b"one", 7]),
    (0, []),
    (1, GOOD),
]


def test_broken_files(start_server: StartServer, module: Path) -> None:
    """A replica refuses them, keeps nothing of them and serves on."""
    replica = start_server("--repl-diskless-load", "on-empty-db", module=module, options=FLOWS)
    with replica.wire() as wire:
        for version, fields in [*BROKEN, (0, GOOD)]:
            value = rdb.module_value("AI__FLOWS", version, [1, *fields])
            before = len(replica.log())
            master = FakeMaster(b"REDIS0009\xf7" + value + b"\xff" + bytes(8))
            wire.ask_ok("REPLICAOF", "127.0.0.1", master.port)

            def outcome(before: int = before) -> str:
                words = ("Finished with success", "Failed trying to load")
                return next((word for word in words if word in replica.log()[before:]), "")

            wait_for(outcome, what="the file is loaded, or not")
            kept = "2" if (version, fields) == (0, GOOD) else "0"
            assert (outcome() == "Finished with success") == (kept == "2")
            wire.ask_ok("REPLICAOF", "NO", "ONE")
            master.socket.close()
            assert figures(wire)["registered"] == kept
    assert loaded(Process(replica)) == {b"one": b"1", b"two": b""}


def test_a_disk_that_is_full(flows: Process, wire: Wire) -> None:
    """RG._FLOW writes: what could not be kept is refused."""
    wire.ask_ok("CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        assert is_error(flows.control.ask("RG._FLOW", "i", "x"), "NOREPLICAS ")
        assert isinstance(flows.do("LOAD"), list)
    finally:
        wire.ask_ok("CONFIG", "SET", "min-replicas-to-write", 0)
    assert not isinstance(flows.do("LOAD"), Error)


def test_settings_that_change(start_server: StartServer, module: Path) -> None:
    """The server is at another port: the process is started anew, and told."""
    server = start_server(module=module, options=FLOWS)
    flows = start(server)
    with server.wire() as wire:
        wire.ask_ok("CONFIG", "SET", "maxmemory-samples", 6)
        server.port = free_port()
        wire.ask_ok("CONFIG", "SET", "port", server.port)
        wait_for(lambda: is_gone(flows.pid))
        assert Process(server).told["port"] == str(server.port)
        assert (figures(wire)["starts"], figures(wire)["deaths"]) == ("2", "0")
