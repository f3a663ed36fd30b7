"""CACHE of a model: equal inputs are answered from memory."""

# TorchScript reads comments about types in the code that it compiles, so they cannot stand there.
# mypy: disable-error-code="assignment, operator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from testkit import models
from testkit.batches import Clients
from testkit.info import ai_info, number
from testkit.replicas import follow
from testkit.waiting import wait_for
from testkit.wire import Wire, Word
from tests.conftest import StartServer

MB = 1 << 20
FIGURES = ("calls", "cache_hits", "cache_misses")


def store(wire: Wire, cache: int = MB, blob: bytes | None = None, key: str = "m") -> None:
    wire.ask_ok("AI.MODELSTORE", key, "ONNX", "CPU", "CACHE", cache, "BLOB", blob or models.onnx_add())


def put(wire: Wire, key: str, *numbers: float) -> None:
    wire.ask_ok("AI.TENSORSET", key, "FLOAT", 1, len(numbers), "VALUES", *numbers)


def run(wire: Wire, key: str = "m", one: str = "x", other: str = "x", output: str = "y") -> Any:
    wire.ask_ok("AI.MODELEXECUTE", key, "INPUTS", 2, one, other, "OUTPUTS", 1, output)
    return wire.ask("AI.TENSORGET", output, "VALUES")


def figures(wire: Wire, key: str = "m") -> list[int]:
    """Runs, hits, misses."""
    info = ai_info(wire, key, "FULL")
    return [info[name] for name in FIGURES]


def test_off(wire: Wire) -> None:
    store(wire, 0)
    put(wire, "x", 1, 2)
    for _ in range(3):
        run(wire)
    assert figures(wire) == [3, 0, 0]
    assert ai_info(wire, "m", "FULL")["cache_bytes"] == 0


def test_equal_inputs_are_answered_from_memory(wire: Wire) -> None:
    store(wire)
    for count in range(3):
        put(wire, f"x{count}", 1, 2)  # another tensor with the same content
        assert run(wire, one=f"x{count}", other=f"x{count}", output=f"y{count}") == [b"2", b"4"]
        assert figures(wire) == [1, count, 1]
    info = ai_info(wire, "m", "FULL")
    assert info["cache_entries"] == 1 and info["cache_bytes"] > 0
    assert info["executions"] == info["samples"] == 1, "a hit is no run"
    wire.ask_ok("AI.INFO", "m", "RESETSTAT")
    assert figures(wire) == [0, 0, 0]
    run(wire, one="x0", other="x1")
    assert figures(wire) == [0, 1, 0], "RESETSTAT keeps the results"


def test_what_differs_is_run(wire: Wire) -> None:
    store(wire, blob=models.onnx_binary("Sub", "difference", ["n", 2]))
    store(wire, blob=models.onnx_binary("Sub", "difference", ["n", 2]), key="other")
    put(wire, "a", 1, 2)
    put(wire, "b", 1, 3)
    for count, (one, other) in enumerate([("a", "b"), ("b", "a"), ("a", "a"), ("b", "b")], 1):
        run(wire, one=one, other=other)
        assert figures(wire) == [count, 0, count]
    assert run(wire, one="a", other="b") == [b"0", b"-1"]
    assert run(wire, one="b", other="a") == [b"0", b"1"]
    assert figures(wire) == [4, 2, 4]
    run(wire, "other", "a", "b")
    assert figures(wire, "other") == [1, 0, 1]


def test_types_shapes_and_elements_count(wire: Wire) -> None:
    def same(*words: Word) -> bool:
        """Whether the model has seen this input before."""
        before = figures(wire)[1]
        wire.ask_ok("AI.TENSORSET", "x", *words)
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert wire.ask("AI.TENSORGET", "y", "META", "BLOB") == wire.ask("AI.TENSORGET", "x", "META", "BLOB")
        return figures(wire)[1] > before

    store(wire, blob=models.onnx_identity("FLOAT", (None, None)))
    blob = np.arange(6, dtype=np.float32).tobytes()
    assert not same("FLOAT", 2, 3, "BLOB", blob)
    assert not same("FLOAT", 3, 2, "BLOB", blob)
    assert same("FLOAT", 2, 3, "BLOB", blob)
    assert not same("FLOAT", 1, 1, "VALUES", 0)
    assert not same("FLOAT", 1, 1, "VALUES", "-0.0"), "equal are equal bytes"

    store(wire, blob=models.onnx_identity("STRING", ("n",)))
    assert not same("STRING", 2, "BLOB", b"a\0b\0")
    assert not same("STRING", 2, "BLOB", b"a\0c\0")
    assert same("STRING", 2, "RAW", b"a", b"b")


def test_strings_with_nuls_inside_are_told_apart(wire: Wire) -> None:
    """The bytes are the same, but not where the elements begin."""
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "CACHE", MB, "BLOB", models.onnx_identity("STRING", ("n",)))
    elements = [(b"a", b"b\0c"), (b"a\0b", b"c")]
    for _ in range(2):
        for pair in elements:
            wire.ask_ok("AI.TENSORSET", "x", "STRING", 2, "RAW", *pair)
            wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    hits, misses = figures(wire)[1:]
    assert misses >= 2 and hits <= 2
    assert ai_info(wire, "m", "FULL")["cache_entries"] == hits


@pytest.mark.parametrize("size", [1, 7, 8, 127, 128, 129, 255, 256, 257, 4096, 100_000])
def test_one_bit_anywhere_makes_a_difference(wire: Wire, size: int) -> None:
    store(wire, 16 * MB, blob=models.onnx_identity("DOUBLE"))
    values = np.random.default_rng(size).random(size)
    for place in dict.fromkeys([0, size // 2, size - 1]):
        values.view(np.uint8)[place * 8 + place % 7] ^= 1
        wire.ask_ok("AI.TENSORSET", "x", "DOUBLE", size, "BLOB", values.tobytes())
        for _ in range(2):
            wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
            assert wire.ask("AI.TENSORGET", "y", "BLOB") == values.tobytes()
    count = len(dict.fromkeys([0, size // 2, size - 1]))
    assert figures(wire) == [count, count, count]


def test_large_inputs_are_not_kept(wire: Wire) -> None:
    """The event loop hashes a megabyte of inputs for a command, no more."""
    store(wire, 64 * MB, blob=models.onnx_identity("UINT8"))
    for count, size in enumerate((MB, MB + 1), 1):
        wire.ask_ok("AI.TENSORSET", "x", "UINT8", size, "BLOB", b"a" * size)
        for _ in range(2):
            wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert figures(wire) == [[1, 1, 1], [3, 1, 1]][count - 1]
    wire.ask_ok("AI.TENSORSET", "x", "UINT8", MB, "BLOB", b"b" * MB)
    step = ("|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1)
    assert wire.ask("AI.DAGEXECUTE", "LOAD", 1, "x", *step, "a", *step, "b") == [b"OK"] * 2
    assert figures(wire) == [5, 1, 2], "of a DAG, a megabyte in all"


def test_what_was_not_used_for_longest_goes_first(wire: Wire) -> None:
    store(wire, 900_000, blob=models.onnx_identity("UINT8"))

    def ask(*numbers: int) -> list[int]:
        """Which of them are answered from memory."""
        found = []
        for i in numbers:
            before = figures(wire)[1]
            wire.ask_ok("AI.TENSORSET", "x", "UINT8", 80_000, "BLOB", bytes([i]) * 80_000)
            wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
            assert wire.ask("AI.TENSORGET", "y", "BLOB") == bytes([i]) * 80_000
            found += [i] * (figures(wire)[1] - before)
        return found

    assert ask(1, 2, 3, 4, 5) == []
    assert ask(1, 2) == [1, 2]
    assert ask(6, 1, 2, 4, 5, 6) == [1, 2, 4, 5, 6]
    info = ai_info(wire, "m", "FULL")
    assert info["cache_entries"] == 5 and 800_000 < info["cache_bytes"] <= 900_000
    assert ask(3) == []
    wire.ask_ok("AI.MODELCONFIG", "m", "CACHE", 150_000)  # less than one entry
    assert ask(7, 7) == []
    assert ai_info(wire, "m", "FULL")["cache_bytes"] == 0


def test_bytes_are_those_of_the_memory(wire: Wire) -> None:
    store(wire, 64 * MB, blob=models.onnx_identity())
    model, used = wire.ask("MEMORY", "USAGE", "m"), number(wire, "used_memory")
    for i in range(2000):
        wire.send("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", i)
        wire.send("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert [wire.read() for _ in range(4000)] == [b"OK"] * 4000
    wait_for(lambda: ai_info(wire, "m", "FULL")["cache_entries"] == 2000)
    told = ai_info(wire, "m", "FULL")["cache_bytes"]
    # The buffers of so many commands are freed later.
    wait_for(lambda: 0.8 * (number(wire, "used_memory") - used) < told < 1.25 * (number(wire, "used_memory") - used))
    took = number(wire, "used_memory") - used
    assert told <= wire.ask("MEMORY", "USAGE", "m") - model < told + 20_000  # times of runs take some, too
    wire.ask_ok("AI.MODELCONFIG", "m", "CACHE", 0)
    wait_for(lambda: number(wire, "used_memory") - used < took // 4)


def store_anew(wire: Wire) -> None:
    store(wire)


def restore(wire: Wire) -> None:
    dump = wire.ask("DUMP", "m")
    wire.ask_ok("RESTORE", "m", 0, dump, "REPLACE")


def switch_off_and_on(wire: Wire) -> None:
    wire.ask_ok("AI.MODELCONFIG", "m", "CACHE", 0)
    run(wire)
    wire.ask_ok("AI.MODELCONFIG", "m", "CACHE", MB)


def resize(wire: Wire) -> None:
    wire.ask_ok("AI.MODELCONFIG", "m", "CACHE", 2 * MB)


@pytest.mark.parametrize("event", [store_anew, restore, switch_off_and_on, resize])
def test_what_empties_it(wire: Wire, event: Callable[[Wire], None]) -> None:
    store(wire)
    put(wire, "x", 1, 2)
    run(wire)
    event(wire)
    put(wire, "x", 1, 2)
    assert ai_info(wire, "m", "FULL")["cache_entries"] == 0
    before = figures(wire)
    assert run(wire) == [b"2", b"4"]
    assert [now - then for now, then in zip(figures(wire), before, strict=True)] == [1, 0, 1]


def test_what_keeps_it(wire: Wire) -> None:
    store(wire)
    put(wire, "x", 1, 2)
    run(wire)
    wire.ask_ok("AI.MODELCONFIG", "m", "CACHE", MB, "TIMEOUT", 1000)
    wire.ask_ok("RENAME", "m", "renamed")
    assert wire.ask("COPY", "renamed", "m") == 1
    for key in ("m", "renamed"):
        assert run(wire, key) == [b"2", b"4"]
    assert figures(wire) == figures(wire, "renamed") == [1, 2, 1]


def test_failures_and_refused_outputs(wire: Wire) -> None:
    store(wire)
    wire.ask_ok("AI.TENSORSET", "bad", "INT64", 1, 2)
    for count in range(1, 3):
        reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "bad", "bad", "OUTPUTS", 1, "y")
        assert reply.startswith("ERR input 'a' has type INT64")
        assert figures(wire) == [count, 0, count]
    put(wire, "x", 1, 2)
    run(wire)
    wire.ask_ok("SET", "string", "x")
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "string").startswith("WRONGTYPE")
    assert wire.ask("GET", "string") == b"x"


def test_a_tensor_that_was_kept_outlives_its_keys(wire: Wire) -> None:
    store(wire, 16 * MB, blob=models.onnx_identity("UINT8"))
    for size in (10, 900_000):  # small, and in the string that brought it
        blob = bytes(range(10)) * (size // 10)
        for _ in range(3):
            wire.ask_ok("AI.TENSORSET", "x", "UINT8", size, "BLOB", blob)
            wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
            assert wire.ask("AI.TENSORGET", "y", "BLOB") == blob
            assert wire.ask("DEL", "x", "y") == 2
    assert figures(wire) == [2, 4, 2]
    assert wire.ask("DEL", "m") == 1


def test_it_waits_for_no_worker_and_for_no_limit(wire: Wire, clients: Clients) -> None:
    store(wire)
    put(wire, "x", 1, 2)
    run(wire)
    put(wire, "new", 3, 4)
    waiting = [clients.wire() for _ in range(2)]
    with clients.busy_worker():
        for count, other in enumerate(waiting, 2):
            other.send("AI.MODELEXECUTE", "m", "INPUTS", 2, "new", "x", "OUTPUTS", 1, "z")
            clients.wait_blocked(count)
        wire.ask_ok("AI.MODELCONFIG", "m", "MAXQUEUE", 1)
        wire.ask_ok("CONFIG", "SET", "ai.max-queued", 1)
        for _ in range(3):
            assert run(wire) == [b"2", b"4"]
        wire.ask_ok("CONFIG", "SET", "ai.max-queued", 0)
    assert [other.read() for other in waiting] == [b"OK"] * 2
    assert figures(wire) == [3, 3, 3]


def dag(*steps: str) -> list[Word]:
    words: list[Word] = []
    for step in steps:
        one, other, output = step.split()
        words += ["|>", "AI.MODELEXECUTE", "m", "INPUTS", 2, one, other, "OUTPUTS", 1, output]
    return [*words, "|>", "AI.TENSORGET", output, "VALUES"]


def test_models_of_a_dag(wire: Wire) -> None:
    """A model that gets the output of another is looked up where that one was answered from memory."""
    store(wire)
    put(wire, "x", 1, 2)
    words = ["AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 1, "z", *dag("x x y", "y x z")]
    for expected in ([2, 0, 1], [3, 1, 2], [3, 3, 2], [3, 5, 2]):
        assert wire.ask(*words) == [b"OK", b"OK", [b"3", b"6"]]
        assert figures(wire) == expected
        assert wire.ask("AI.TENSORGET", "z", "VALUES") == [b"3", b"6"]
        wire.ask("DEL", "z")
    assert wire.ask("AI.DAGEXECUTE_RO", "LOAD", 1, "x", *dag("x x y", "y x z")) == [b"OK", b"OK", [b"3", b"6"]]
    assert run(wire) == [b"2", b"4"]
    assert figures(wire) == [3, 8, 2]


def test_a_dag_that_fails_keeps_what_has_run(wire: Wire) -> None:
    store(wire)
    put(wire, "x", 1, 2)
    put(wire, "bad", 1, 2, 3)
    words = ["AI.DAGEXECUTE", "LOAD", 2, "x", "bad", "PERSIST", 1, "z", *dag("x x y", "y bad z")]
    for expected in ([2, 0, 1], [3, 1, 2]):
        reply = wire.ask(*words)
        assert reply[0] == b"OK" and reply[1].startswith("ERR") and reply[2] == b"NA"
        assert figures(wire) == expected
        assert wire.ask("EXISTS", "z") == 0


def test_a_tensor_of_the_command_itself(wire: Wire) -> None:
    """One that stays in the command's own string is not kept. Others are."""
    store(wire, 16 * MB, blob=models.onnx_identity("UINT8"))
    step: list[Word] = ["|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y", "|>", "AI.TENSORGET", "y"]
    for size, expected in ((1000, [1, 1, 1]), (800_000, [3, 1, 3])):
        for _ in range(2):
            blob = b"a" * size
            reply = wire.ask(
                "AI.DAGEXECUTE", "ROUTING", "r", "|>", "AI.TENSORSET", "x", "UINT8", size, "BLOB", blob, *step, "BLOB"
            )
            assert reply == [b"OK", b"OK", blob]
        assert figures(wire) == expected


def test_replicas_get_the_outputs(start_server: StartServer) -> None:
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    follow(replica, master)
    with master.wire() as wire, replica.wire() as reader:
        store(wire)
        put(wire, "x", 1, 2)
        run(wire, output="y")
        assert run(wire, output="z") == [b"2", b"4"]
        assert figures(wire) == [1, 1, 1]
        wait_for(lambda: reader.ask("EXISTS", "z") == 1)
        assert reader.ask("AI.TENSORGET", "z", "VALUES") == [b"2", b"4"]
        assert figures(reader) == [0, 0, 0]


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x + self.count


def test_a_model_with_a_state_is_never_cached(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "TORCH", "CPU", "CACHE", MB, "BLOB", models.torch_module(Counter))
    put(wire, "x", 1)
    seen = set()
    for _ in range(3):
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        seen.add(wire.ask("AI.TENSORGET", "y", "BLOB"))
    assert len(seen) == 3
    assert figures(wire)[0] == 3 and figures(wire)[1] == 0
    assert ai_info(wire, "m", "FULL")["cache_entries"] == 0


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_memory_is_full(start_server: StartServer, policy: str) -> None:
    """Redis cannot evict entries. So where it has little memory left, they make room for each other, not Redis's keys
    for them; and where it has none, they go."""
    size = 100_000

    def run_many(count: int) -> None:
        for i in range(count):
            wire.ask_ok("AI.TENSORSET", "x", "UINT8", size, "BLOB", random.bytes(size))
            assert wire.ask("AI.DAGEXECUTE_RO", "LOAD", 1, "x", *step) == [b"OK"], i

    random = np.random.default_rng(1)
    step = ("|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    with start_server().wire() as wire:
        store(wire, 256 * MB, blob=models.onnx_identity("UINT8"))
        run_many(10)
        limit = number(wire, "used_memory") + 8 * MB
        wire.ask_ok("CONFIG", "SET", "maxmemory-policy", policy, "maxmemory", limit)
        run_many(100)
        info = ai_info(wire, "m", "FULL")
        assert 20 < info["cache_entries"] < 80 and info["cache_bytes"] < limit
        assert number(wire, "evicted_keys") == 0
        wire.ask("AI.DAGEXECUTE_RO", "LOAD", 1, "x", *step)
        assert figures(wire) == [110, 1, 110]

        wire.ask_ok("AI.TENSORSET", "x", "UINT8", 1, "VALUES", 7)
        wire.ask_ok("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", number(wire, "used_memory") - MB)
        for _ in range(2):
            assert wire.ask("AI.DAGEXECUTE_RO", "LOAD", 1, "x", *step) == [b"OK"]
        assert ai_info(wire, "m", "FULL")["cache_entries"] < info["cache_entries"] // 2
