"""Active defragmentation moves tensors, models and scripts, and nobody notices.

Only a server with a jemalloc of its own has it; those of Debian and Ubuntu use the system's.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from redis.exceptions import ResponseError

from testkit import models
from testkit.clusters import Caller
from testkit.scripts import function
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer

ADD = models.onnx_add(("n", "m"))
DOUBLED = function("double", "return tensors[0] * 2")
COUNT = 6000  # of tensors; every second one is deleted
PATIENCE = 60.0
LARGE = 600_000 // 4  # elements; the data stays in the command's string

# Anything is fragmented enough, and half of a core may go into it.
SETTINGS = {
    "active-defrag-ignore-bytes": 1,
    "active-defrag-threshold-lower": 1,
    "active-defrag-threshold-upper": 2,
    "active-defrag-cycle-min": 40,
    "active-defrag-cycle-max": 50,
}


@pytest.fixture
def fragmented(start_server: StartServer) -> Server:
    """A server whose memory is full of gaps, because every second key is gone."""
    server = start_server("--hz", "100")
    with server.wire() as wire:
        reply = wire.ask("CONFIG", "SET", "activedefrag", "yes")
        if isinstance(reply, Error):
            pytest.skip(f"this server has no active defragmentation: {reply}")
        assert wire.ask("CONFIG", "SET", "activedefrag", "no") == b"OK"
        for name, value in SETTINGS.items():
            assert wire.ask("CONFIG", "SET", name, value) == b"OK"
        fill(wire)
    return server


def values(number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Those of tensor `number`: of many sizes, thus at many distances from an aligned address."""
    size = LARGE if number % 500 == 2 else (1, 3, 300, 1000, 2000)[number // 2 % 5]
    return np.arange(number, number + size, dtype=np.float32)


def shape(number: int) -> list[int]:
    return [1] * (number // 2 % 4) + [values(number).size]


def fill(wire: Wire) -> None:
    for number in range(COUNT):
        wire.send("AI.TENSORSET", f"t:{number}", "FLOAT", *shape(number), "BLOB", values(number).tobytes())
        wire.send("AI.TENSORSET", f"s:{number}", "STRING", 2, "RAW", f"some\0words {number}", "")
        assert wire.read() == wire.read() == b"OK"
    for number in range(100):
        assert wire.ask("AI.MODELSTORE", f"m:{number}", "ONNX", "CPU", "TAG", number, "BLOB", ADD) == b"OK"
    for number in range(40):
        words = ("AI.SCRIPTSTORE", f"f:{number}", "CPU", "TAG", number, "ENTRY_POINTS", 1, "double", "SOURCE", DOUBLED)
        assert wire.ask(*words) == b"OK"
    for kind, count in (("t", COUNT), ("s", COUNT), ("m", 100), ("f", 40)):
        assert wire.ask("DEL", *(f"{kind}:{number}" for number in range(1, count, 2))) == count // 2
    assert wire.ask("COPY", "t:4", "copy") == wire.ask("COPY", "m:4", "model copy") == 1


def dumps(wire: Wire) -> dict[bytes, bytes]:
    return {key: wire.ask("DUMP", key) for key in wire.ask("KEYS", "*")}


def gaps(server: Server) -> int:
    """Bytes of memory that are wasted between values."""
    return int(server.info("memory")["allocator_frag_bytes"])


def moved(server: Server) -> int:
    return int(server.info("stats")["active_defrag_hits"])


def run_things(server: Server) -> Callable[[int], None]:
    """Runs of models, scripts and DAGs on random tensors, and reads, each with the right result."""
    choose = random.Random(server.port)
    client = server.client()

    def ask(*words: Any) -> Any:
        reply = client.execute_command(*words)
        if isinstance(reply, Exception):
            raise ResponseError(str(reply))
        return reply

    def run(number: int) -> None:
        tensor, text = choose.randrange(2, COUNT, 8), choose.randrange(0, COUNT, 2)  # the model takes two dimensions
        model, script = f"m:{choose.randrange(0, 100, 2)}", f"f:{choose.randrange(0, 40, 2)}"
        key, wanted = f"t:{tensor}", (values(tensor) * 2).tobytes()
        assert ask("AI.MODELEXECUTE", model, "INPUTS", 2, key, key, "OUTPUTS", 1, "run") == b"OK"
        assert ask("AI.TENSORGET", "run", "BLOB") == wanted
        assert ask("AI.SCRIPTEXECUTE", script, "double", "INPUTS", 1, key, "OUTPUTS", 1, "run") == b"OK"
        assert ask("AI.TENSORGET", "run", "BLOB") == wanted
        dag = f"AI.DAGEXECUTE_RO LOAD 1 {key} |> AI.MODELEXECUTE {model} INPUTS 2 {key} {key} OUTPUTS 1 x"
        assert ask(*dag.split(), "|>", "AI.TENSORGET", "x", "BLOB") == [b"OK", wanted]
        assert ask("AI.TENSORGET", f"s:{text}", "VALUES") == [f"some\0words {text}".encode(), b""]
        assert ask("AI.TENSORGET", key, "META") == [b"dtype", b"FLOAT", b"shape", shape(tensor)]

    return run


def check_everything(wire: Wire) -> None:
    for number in range(0, COUNT, 2):
        assert wire.ask("AI.TENSORGET", f"t:{number}", "BLOB") == values(number).tobytes()
    for number in range(0, 100, 2):
        tag_and_blob = wire.ask("AI.MODELGET", f"m:{number}")
        assert str(number).encode() in tag_and_blob and ADD in tag_and_blob
    for number in range(0, 40, 2):
        assert DOUBLED.encode() in wire.ask("AI.SCRIPTGET", f"f:{number}")


@pytest.mark.parametrize("later", [False, True], ids=["at once", "large values later"])
def test_while_things_run(fragmented: Server, later: bool) -> None:
    with fragmented.wire() as wire:
        wire.ask("CONFIG", "SET", "active-defrag-max-scan-fields", 1 if later else 1000)
        before, digest, wasted = dumps(wire), wire.ask("DEBUG", "DIGEST"), gaps(fragmented)
        with Caller(run_things(fragmented)) as runs:
            runs.wait_for_more(5)
            assert wire.ask("CONFIG", "SET", "activedefrag", "yes") == b"OK"
            wait_for(lambda: gaps(fragmented) < wasted / 2, PATIENCE, "most of the gaps are gone")
            runs.wait_for_more(30)
        runs.check()
        assert runs.errors == []
        assert moved(fragmented) > COUNT, "of each pair of a key and a value, one at least"
        assert wire.ask("CONFIG", "SET", "activedefrag", "no") == b"OK"
        wire.ask("DEL", "run")
        assert wire.ask("DEBUG", "DIGEST") == digest
        assert dumps(wire) == before
        check_everything(wire)
    assert fragmented.restart().log().count("=== ") == 0


def test_in_a_script_that_takes_long(fragmented: Server) -> None:
    """The server then defragments between the script's commands."""
    code = """
        local function moved() return tonumber(redis.call('INFO', 'stats'):match('active_defrag_hits:(%d+)')) end
        local before = moved()
        for i = 1, 300000 do
            local number = (i * 2) % tonumber(ARGV[1])
            local value = redis.call('AI.TENSORGET', 's:' .. number, 'VALUES')
            if value[1] ~= 'some\\0words ' .. number then return value end
            if i % 1000 == 0 and moved() > before + 100 then return 'all right' end
        end
        return 'nothing moved'
    """
    with fragmented.wire() as wire:
        digest = wire.ask("DEBUG", "DIGEST")
        slowly = ("active-defrag-cycle-max", 1, "active-defrag-cycle-min", 1)
        assert wire.ask("CONFIG", "SET", "busy-reply-threshold", 1, *slowly) == b"OK"
        assert wire.ask("CONFIG", "SET", "activedefrag", "yes") == b"OK"
        wait_for(lambda: moved(fragmented) > 0, PATIENCE, "the server has begun")
        reply = wire.ask("EVAL", code, 0, COUNT)
        if reply == b"nothing moved":
            pytest.skip("this server does not defragment while a script runs")
        assert reply == b"all right"
        wait_for(lambda: moved(fragmented) > COUNT, PATIENCE, "the server has gone on")
        assert wire.ask("CONFIG", "SET", "activedefrag", "no") == b"OK"
        assert wire.ask("DEBUG", "DIGEST") == digest
