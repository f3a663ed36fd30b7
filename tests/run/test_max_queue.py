"""MAXQUEUE of a model, MAX_QUEUED and MAX_QUEUED_BYTES of the server: what would wait beyond them is refused at once.

The one worker of the CPU runs a script meanwhile, so that every other run waits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from testkit import models, scripts
from testkit.batches import Clients, store_witness
from testkit.info import full_ai_info, module_sections
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

RUN: tuple[Word, ...] = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
STEP = ("|>", *RUN[:-1], "y{}")
BUSY = "BUSY model 'm' has MAXQUEUE {}: {} runs wait, and this command has {}; try again later, or set another limit by"


def store(wire: Wire, *options: Word) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", *options, "BLOB", models.onnx_add())
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)


def dag(ops: int) -> list[Word]:
    words: list[Word] = ["AI.DAGEXECUTE", "LOAD", 1, "x"]
    for number in range(ops):
        words += [*STEP[:-1], f"y{number}"]
    return words


def queued(wire: Wire) -> list[int]:
    """Runs, bytes, and how many commands were refused."""
    found = module_sections(wire, "MODULES")["queued"]
    return [int(found[name]) for name in ("queued_runs", "queued_bytes", "refused_runs")]


@contextmanager
def waiting(clients: Clients, *commands: Sequence[Word]) -> Iterator[list[Wire]]:
    """The worker is busy, and these wait; afterwards they are done."""
    with clients.busy_worker():
        wires = [clients.wire() for _ in commands]
        for count, (wire, words) in enumerate(zip(wires, commands, strict=True), 2):
            wire.send(*words)
            clients.wait_blocked(count)
        yield wires
    for wire in wires:
        reply = wire.read()
        assert reply == b"OK" or set(reply) == {b"OK"}, reply
    clients.wait_blocked(0)  # also for those of waiting_more()


def check_busy(reply: Any, text: str) -> None:
    assert isinstance(reply, Error)
    assert reply.startswith(text), reply


@pytest.mark.parametrize("how", ["stored", "configured"])
def test_max_queue(wire: Wire, clients: Clients, how: str) -> None:
    store(wire, *(("MAXQUEUE", 3) if how == "stored" else ()))
    if how == "configured":
        wire.ask_ok("AI.MODELCONFIG", "m", "MAXQUEUE", 3)
    with waiting(clients, RUN, RUN, RUN):
        for _ in range(2):
            check_busy(wire.ask(*RUN), BUSY.format(3, 3, 1) + " AI.MODELCONFIG")
        assert [full_ai_info(wire)[name] for name in ("queued", "refused", "calls", "errors")] == [3, 2, 0, 0]
        wire.ask_ok("AI.MODELCONFIG", "m", "MAXQUEUE", 4)
        with waiting_more(clients, RUN):
            check_busy(wire.ask(*RUN), BUSY.format(4, 4, 1))
            wire.ask_ok("AI.MODELCONFIG", "m", "MAXQUEUE", 1)
            check_busy(wire.ask(*RUN), BUSY.format(1, 4, 1))
    assert wire.ask(*RUN) == b"OK"
    assert [full_ai_info(wire)[name] for name in ("queued", "refused", "calls")] == [0, 4, 5]
    wire.ask_ok("AI.INFO", "m", "RESETSTAT")
    assert full_ai_info(wire)["refused"] == 0


@contextmanager
def waiting_more(clients: Clients, words: Sequence[Word]) -> Iterator[None]:
    wire = clients.wire()
    blocked = clients.server.blocked_clients()
    wire.send(*words)
    clients.wait_blocked(blocked + 1)
    yield
    wire.send("PING")  # its replies come later


def test_every_op_of_a_dag_counts(wire: Wire, clients: Clients) -> None:
    store(wire, "MAXQUEUE", 5)
    chain: list[Word] = ["AI.DAGEXECUTE", "LOAD", 1, "x", "|>", *RUN, "|>", *RUN[:4], "y", "y", *RUN[6:8], "z"]
    with waiting(clients, dag(2), chain):
        assert full_ai_info(wire)["queued"] == 4
        check_busy(wire.ask(*dag(2)), BUSY.format(5, 4, 2))
        assert full_ai_info(wire)["queued"] == 4, "none of a refused DAG counts"
        with waiting_more(clients, RUN):
            check_busy(wire.ask(*RUN), BUSY.format(5, 5, 1))
    assert wire.ask(*dag(5)) == [b"OK"] * 5
    check_busy(wire.ask(*dag(6)), BUSY.format(5, 0, 6))
    assert [full_ai_info(wire)[name] for name in ("queued", "refused")] == [0, 3]


def test_ops_of_a_dag_that_never_run_leave(wire: Wire) -> None:
    store(wire, "MAXQUEUE", 2)
    wire.ask_ok("AI.TENSORSET", "bad", "INT64", 1, 2)
    words = ["AI.DAGEXECUTE", "LOAD", 1, "bad", "|>", *RUN[:4], "bad", "bad", *RUN[6:], "|>", *RUN[:4], "y", "y"]
    for _ in range(5):
        reply = wire.ask(*words, *RUN[6:])
        assert reply[0].startswith("ERR input 'a' has type INT64") and reply[1] == b"NA"
        wait_for(lambda: full_ai_info(wire)["queued"] == 0)


def test_what_its_client_has_given_up_counts_while_it_takes_memory(
    server: Server, wire: Wire, clients: Clients
) -> None:
    store(wire, "MAXQUEUE", 50)
    with clients.busy_worker(), server.wire() as one:
        for _ in range(200):
            one.send(*RUN, "TIMEOUT", 1)
        replies = [one.read() for _ in range(200)]
        assert replies[:50] == [b"TIMEDOUT"] * 50
        assert all(isinstance(reply, Error) and reply.startswith("BUSY ") for reply in replies[50:])
    wait_for(lambda: full_ai_info(wire)["queued"] == 0)
    assert wire.ask(*RUN) == b"OK"


@pytest.mark.parametrize("how", ["close", "CLIENT UNBLOCK"])
def test_those_who_wait_for_a_batch_leave(server: Server, wire: Wire, clients: Clients, how: str) -> None:
    store_witness(wire, size=8, min_size=8)
    wire.ask_ok("AI.MODELCONFIG", "m", "MAXQUEUE", 2)
    for _ in range(3):
        one, two = clients.each(1, 1)
        ids = [request.wire.ask("CLIENT", "ID") for request in (one, two)]
        clients.queue(one, two)  # to refuse another would end their wait
        assert full_ai_info(wire)["queued"] == 2
        for request, number in zip((one, two), ids, strict=True):
            if how == "close":
                request.wire.close()
            else:
                assert wire.ask("CLIENT", "UNBLOCK", number) == 1
                assert request.wire.read() == b"TIMEDOUT"
        wait_for(lambda: full_ai_info(wire)["queued"] == 0)


def test_a_copy_has_the_same_limit(wire: Wire, clients: Clients) -> None:
    store(wire, "MAXQUEUE", 2)
    assert wire.ask("COPY", "m", "n") == 1
    run_copy = ("AI.MODELEXECUTE", "n", *RUN[2:])
    with waiting(clients, RUN, run_copy):
        check_busy(wire.ask(*RUN), BUSY.format(2, 2, 1))
        check_busy(wire.ask(*run_copy), BUSY.format(2, 2, 1))
        wire.ask_ok("AI.MODELCONFIG", "n", "MAXQUEUE", 1)
        check_busy(wire.ask(*RUN), BUSY.format(1, 2, 1))


# ---- of the server ---------------------------------------------------------------------------------------------------


@contextmanager
def options(wire: Wire, **values: int) -> Iterator[None]:
    names = {name: f"ai.{name.lower().replace('_', '-')}" for name in values}
    for name, value in values.items():
        wire.ask_ok("CONFIG", "SET", names[name], value)
    try:
        yield
    finally:
        for name in values:
            wire.ask_ok("AI.CONFIG", name, 0)


def test_max_queued(wire: Wire, clients: Clients) -> None:
    """Runs of all models and scripts count."""
    store(wire)
    scripts.store(wire, "s", scripts.function("f", "return tensors"), ["f"])
    script = ("AI.SCRIPTEXECUTE", "s", "f", "INPUTS", 1, "x", "OUTPUTS", 1, "z")
    refused = queued(wire)[2]
    text = "BUSY the server has MAX_QUEUED {}: {} runs wait, and this command has {}; try again later, or set another"
    with waiting(clients, RUN, script, RUN):
        ahead = queued(wire)[0] - 3  # an engine process does not tell that it has begun the busy script
        assert ahead in (0, 1)
        with options(wire, MAX_QUEUED=4 + ahead):
            check_busy(wire.ask(*dag(2)), text.format(4 + ahead, 3 + ahead, 2) + " limit by AI.CONFIG")
            with waiting_more(clients, script):
                check_busy(wire.ask(*script), text.format(4 + ahead, 4 + ahead, 1))
                assert queued(wire)[0] == 4 + ahead
    assert queued(wire) == [0, 0, refused + 2]
    assert full_ai_info(wire)["refused"] == 0, "it has no limit of its own"


def test_max_queued_bytes(wire: Wire, clients: Clients) -> None:
    """Each run counts all its inputs, also those that others share or that came with a DAG."""
    store(wire)
    wire.ask_ok("AI.TENSORSET", "large", "FLOAT", 100, 2)
    large: list[Word] = [*RUN[:4], "large", "large", *RUN[6:]]
    brought: list[Word] = [
        "AI.DAGEXECUTE",
        "ROUTING",
        "x",
        "|>",
        "AI.TENSORSET",
        "large",
        "FLOAT",
        100,
        2,
        "|>",
        *large,
    ]
    text = "BUSY the server has MAX_QUEUED_BYTES {}: {} bytes of inputs wait, and this command has {}; try again later"
    with options(wire, MAX_QUEUED_BYTES=3300), waiting(clients, large, brought):
        assert queued(wire)[1] == 3200
        check_busy(wire.ask(*large), text.format(3300, 3200, 1600))
        with waiting_more(clients, RUN):
            assert queued(wire)[1] == 3216
    assert queued(wire)[:2] == [0, 0]
    with options(wire, MAX_QUEUED_BYTES=1599):
        check_busy(wire.ask(*large), text.format(1599, 0, 1600))


@pytest.mark.parametrize("inside", ["MULTI", "EVAL"])
def test_in_transactions_the_error_is_another(wire: Wire, inside: str) -> None:
    """Runs may not be there at all, whatever waits."""
    store(wire, "MAXQUEUE", 1)
    if inside == "MULTI":
        assert [wire.ask(*words) for words in (("MULTI",), RUN)] == [b"OK", b"QUEUED"]
        (reply,) = wire.ask("EXEC")
    else:
        reply = wire.ask("EVAL", "return redis.call(unpack(ARGV))", 0, *RUN)
    assert reply.startswith("ERR Cannot run RedisAI command within a transaction or a LUA script")
    assert wire.ask(*RUN) == b"OK"


@pytest.mark.parametrize("name", ["MAX_QUEUED", "MAX_QUEUED_BYTES"])
def test_options(start_server: StartServer, name: str) -> None:
    config = f"ai.{name.lower().replace('_', '-')}"
    with start_server(options=[name, 7]).wire() as wire:
        assert wire.ask("CONFIG", "GET", config) == [config.encode(), b"7"]
        assert wire.ask("AI.CONFIG", "GET", name) == 7
        wire.ask_ok("CONFIG", "SET", config, 8)
        assert wire.ask("AI.CONFIG", "GET", name.lower()) == 8
        wire.ask_ok("AI.CONFIG", name.lower(), 9)
        assert module_sections(wire, "MODULES")["load_time_configs"][name.lower()] == "9"
        needed = f"ERR {name}: a number from 0 to 9223372036854775807 is needed"
        for words in (), ("x",), (-1,), (1, 2):
            assert wire.ask("AI.CONFIG", name, *words) == needed
        assert isinstance(wire.ask("CONFIG", "SET", config, -1), Error)


# ---- a burst ---------------------------------------------------------------------------------------------------------

CONNECTIONS, BURST, ROWS = 32, 300, 8192


def test_a_burst_ends_in_errors(server: Server, wire: Wire, clients: Clients) -> None:
    """Connections send all their runs at once, with inputs of 64 KB, and give each up after 1 ms: in all 600 MB. GET
    stays quick."""
    store(wire)
    brought: list[Word] = ["AI.DAGEXECUTE", "ROUTING", "x", "TIMEOUT", 1, "|>", "AI.TENSORSET", "x", "FLOAT", ROWS, 2]
    wire.ask_ok("SET", "k", "v")
    with options(wire, MAX_QUEUED_BYTES=20 << 20), clients.busy_worker(), ExitStack() as stack:
        wires = [stack.enter_context(server.wire()) for _ in range(CONNECTIONS)]
        before = memory(wire)
        times, most = [], 0
        for sent in range(BURST):
            for one in wires:
                one.send(*brought, "|>", *RUN)
            reply, seconds = wire.timed("GET", "k")
            assert reply == b"v"
            times.append(seconds)
            if sent % 10 == 0:
                most = max(most, memory(wire))
        replies = [one.read() for one in wires for _ in range(BURST)]
        most = max(most, memory(wire))
    given_up = replies.count(b"TIMEDOUT")
    text = "BUSY the server has MAX_QUEUED_BYTES"
    busy = sum(isinstance(reply, Error) and reply.startswith(text) for reply in replies)
    median = sorted(times)[len(times) // 2]
    print(f"{busy} of {len(replies)} refused, {(most - before) / 1e6:.0f} MB more, GET {median * 1000:.2f} ms")
    assert given_up + busy == len(replies)
    # 160 and more: those that are given up before an engine process gets them leave at once.
    assert 160 <= given_up < 2000
    assert most - before < 40 << 20
    assert median < 0.05
    wait_for(lambda: queued(wire)[:2] == [0, 0])
    assert wire.ask(*RUN) == b"OK"


def memory(wire: Wire) -> int:
    """Without the commands that clients have sent, and that Redis has not looked at."""
    found = dict(re.findall(r"^(\w+):(\d+)\r$", wire.ask("INFO", "memory").decode(), re.MULTILINE))
    return int(found["used_memory"]) - int(found["mem_clients_normal"])
