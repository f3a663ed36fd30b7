"""MODEL_LOAD_TIMEOUT: a model that takes very long to compile does not hold up others."""

from __future__ import annotations

from pathlib import Path

from testkit import samples
from testkit.engines import engines
from testkit.waiting import wait_for
from testkit.wire import Error
from tests.conftest import StartServer

BACKEND = (
    "import time\nfrom pathlib import Path\n"
    + samples.ADDING_BACKEND
    + """
def load(definition, settings):
    while definition.blob == b"slow" and not Path({go!r}).exists():
        time.sleep(0.01)
    return Session()
"""
)


def test_others_do_not_wait(start_server: StartServer, tmp_path: Path) -> None:
    backend = tmp_path / "backends" / "redisai_onnxruntime" / "redisai_onnxruntime.py"
    backend.parent.mkdir(parents=True)
    backend.write_text(BACKEND.format(go=str(tmp_path / "go")))
    options: list[str | int] = ["BACKENDSPATH", str(tmp_path / "backends"), "MODEL_LOAD_TIMEOUT", 300]
    server = start_server(options=[*options, "ALLOW_FILE_OPS", 1])
    store = ("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB")
    with server.wire() as wire, server.wire() as slow, server.wire() as slow_too:
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 2)
        for connection in slow, slow_too:
            connection.send("AI.MODELSTORE", "slow", *store[2:], b"slow")
        wait_for(lambda: server.blocked_clients() == 2)
        wire.ask_ok(*store, b"quick")
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"4"]
        assert "MODEL_LOAD_TIMEOUT" in server.log()
        if server.is_isolated:
            for connection in slow, slow_too:
                reply = connection.read()
                assert isinstance(reply, Error) and "MODEL_LOAD_TIMEOUT, 300 ms" in reply
            wait_for(lambda: int(engines(wire)["CPU"]["deaths"]) == 2)
        else:
            assert wire.ask("EXISTS", "slow") == 0
            (tmp_path / "go").touch()
            assert slow.read() == slow_too.read() == b"OK"
            wire.ask_ok("AI.MODELEXECUTE", "slow", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
        wire.ask_ok(*store, b"last")
