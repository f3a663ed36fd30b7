"""However many keys are pending, and whatever becomes of them, clients do not wait, and results stay right."""

from __future__ import annotations

from testkit import models
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.bindings.kit import LINE, bind, binding, settle, store

HASH = f"ON HASH PREFIX 1 k: FIELDS 1 x {LINE}"
FILL = "for i = 1, tonumber(ARGV[1]) do redis.call('HSET', 'k:' .. i, 'x', i) end return 'OK'"
MANY = 200_000


def fill(wire: Wire, count: int) -> None:
    assert wire.ask("EVAL", FILL, 0, count) == b"OK"


def test_many_pending_keys_are_forgotten_at_once(wire: Wire) -> None:
    """Freeing them all in one piece would take a fifth of a microsecond each."""
    bind(wire, HASH)
    wire.ask("AI.MODELDEL", "m")
    fill(wire, MANY)
    assert binding(wire)["pending"] == MANY
    assert wire.timed("AI.UNBIND", "b")[1] < 0.02
    store(wire)
    bind(wire, HASH)
    wire.ask("AI.MODELDEL", "m")
    fill(wire, 1000)
    wire.ask_ok("FLUSHDB", "ASYNC")
    assert binding(wire)["pending"] == 0
    store(wire)
    wire.ask("HSET", "k:1", "x", 1)
    settle(wire)
    assert wire.ask("HGET", "k:1", "y") == b"3"


def test_a_large_batch_makes_no_client_wait(wire: Wire) -> None:
    """Reading and writing all of it in one piece would take tens of milliseconds, twice for each batch."""
    fields = [f"f{i}" for i in range(30)]
    words = ("AI.MODELSTORE", "m", "ONNX", "CPU", "BATCHSIZE", 4096, "BLOB", models.onnx_line(2, 1))
    wire.ask_ok(*words)
    bind(wire, f"ON HASH PREFIX 1 k: FIELDS 30 {' '.join(fields)} MODEL m SET 1 y")
    wire.ask("AI.MODELDEL", "m")
    row = "local row = {} for i = 0, 29 do row[2 * i + 1] = 'f' .. i row[2 * i + 2] = i end "
    fill = "for i = 1, 8192 do redis.call('HSET', 'k:' .. i, unpack(row)) end return 'OK'"
    assert wire.ask("EVAL", row + fill, 0) == b"OK"
    wire.ask_ok(*words)
    times, pending = [], 1
    while pending:
        reply, seconds = wire.timed("AI.BINDINFO", "b")
        pending = reply[reply.index(b"pending") + 1]
        times.append(seconds)
    assert binding(wire)["runs"] < 20
    assert sorted(times)[-3] < 0.015


def test_a_batch_that_takes_many_iterations(wire: Wire) -> None:
    """It is read and written in pieces; what changes meanwhile gets the newest value, and what is deleted stays so."""
    store(wire)
    bind(wire, f"{HASH} VERSION v")
    fill(wire, 20_000)
    for i in range(1, 20_000, 40):
        wire.ask("HSET", f"k:{i}", "x", -i)
        wire.ask("DEL", f"k:{i + 1}")
    settle(wire, 30)
    told = binding(wire)
    assert (told["errors"], wire.ask("DBSIZE")) == (0, 20_000 - 500 + 1)
    for i in range(1, 2_000):
        x, y = wire.ask("HMGET", f"k:{i}", "x", "y")
        assert y == (None if x is None else b"%d" % (2 * int(x) + 1)), i


def test_the_model_changes_or_goes_while_batches_are_read(wire: Wire) -> None:
    bind(wire, f"{HASH} VERSION v")
    for round in range(10):
        fill(wire, 2_000)
        store(wire, factor=round, tag=str(round))
        if round % 3 == 0:
            wire.ask("AI.MODELDEL", "m")
            wire.ask("FLUSHALL")
            assert binding(wire)["pending"] < 70
            store(wire, factor=round, tag=str(round))
        if round % 3 == 1:
            wire.ask_ok("AI.UNBIND", "b")
            bind(wire, f"{HASH} VERSION v")
        wire.ask("HSET", "k:1", "x", round)
    settle(wire, 30)
    assert wire.ask("HMGET", "k:1", "y", "v") == [b"82", b"9"]


def test_a_stream_that_takes_many_iterations(wire: Wire) -> None:
    bind(wire, "ON STREAM PREFIX 1 in FIELDS 1 x MODEL m SET 1 y STREAM out")
    add = "for i = 1, 5000 do redis.call('XADD', 'in', i .. '-1', 'x', i % 10 == 0 and 'bad' or i) end return 'OK'"
    assert wire.ask("EVAL", add, 0) == b"OK"
    settle(wire, 30)
    ids = [fields[3] for _, fields in wire.ask("XRANGE", "out", "-", "+")]
    assert ids == [b"%d-1" % i for i in range(1, 5001) if i % 10]
    assert binding(wire)["errors"] == 500


def test_a_stream_that_is_made_anew(wire: Wire) -> None:
    """Its IDs may begin anew, too."""
    bind(wire, "ON STREAM PREFIX 1 in FIELDS 1 x MODEL m SET 1 y STREAM out")
    for round in range(50):
        wire.send("XADD", "in", "100-1", "x", round)
        wire.send("DEL", "in")
        wire.send("XADD", "in", "1-1", "x", 1000 + round)
        for _ in range(3):
            wire.read()
        settle(wire)
        last = wire.ask("XREVRANGE", "out", "+", "-", "COUNT", 1)
        assert last and last[0][1][-1] == b"%d" % (2 * (1000 + round) + 1), (round, last)
        wire.ask("DEL", "in")


def test_bindrun_reads_what_was_there_before_an_entry_that_waits(wire: Wire) -> None:
    wire.ask("XADD", "in", "1-1", "x", 1)
    bind(wire, "ON STREAM PREFIX 1 in FIELDS 1 x MODEL m SET 1 y STREAM out")
    wire.ask("AI.MODELDEL", "m")
    wire.ask("XADD", "in", "2-1", "x", 2)
    wire.ask_ok("AI.BINDRUN", "b")
    wait_for(lambda: binding(wire)["bindrun_of"] == 0 and binding(wire)["bindrun_keys"] > 0)
    store(wire)
    settle(wire)
    assert [fields[3] for _, fields in wire.ask("XRANGE", "out", "-", "+")] == [b"1-1", b"2-1"]


def test_a_stream_cannot_get_its_own_results(wire: Wire) -> None:
    for source in ("PREFIX 2 in ou", "PREFIX 1 out", "KEYS 2 in out"):
        line = f"ON STREAM {source} FIELDS 1 x MODEL m SET 1 y STREAM out"
        assert "is read and gets the results" in str(wire.ask("AI.BIND", "b", *line.split()))
    bind(wire, "ON STREAM KEYS 2 in ou FIELDS 1 x MODEL m SET 1 y STREAM out")
