"""Random DAGs against a plain interpreter of the same ops; random time-outs and disconnections under load.

REDISAI_EXAMPLES is how many DAGs are tried on each set of devices, REDISAI_SECONDS for how long the load lasts, and
REDISAI_SEED what both begin with; without a seed the DAGs are the same every time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from testkit.random_dags import (
    Array,
    Dag,
    DagMeaning,
    Get,
    Run,
    Runnable,
    Set,
    meaning_of,
    random_dag,
    random_value,
    runnables,
    store_all,
)
from testkit.server import Server, settled_memory
from testkit.waiting import wait_until_alone
from testkit.wire import Error, Simple, Wire, Word, encode
from tests.conftest import StartServer

EXAMPLES = int(os.environ.get("REDISAI_EXAMPLES", "150"))
SECONDS = float(os.environ.get("REDISAI_SECONDS", "4"))
SEED = int(os.environ.get("REDISAI_SEED", "0"))
NAMES = tuple("abcdef")
KEYS = ("k1", "k2", "nowhere")  # the last one does not exist
ONE = ("CPU",)
SEVERAL = ("CPU", "CPU:1", "CPU:2")
random_settings = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not SEED,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


def keyspace(wire: Wire, names: Sequence[str]) -> dict[str, Any]:
    return {name: wire.ask("AI.TENSORGET", name, "BLOB") for name in names if wire.ask("EXISTS", name)}


def prepare(wire: Wire, random: Random, columns: int) -> dict[str, Array]:
    """The tensors that are loaded, and of old at a place where some may be stored."""
    wire.ask("DEL", *NAMES)
    values = {key: random_value(random, columns) for key in (*KEYS[:2], NAMES[0])}
    for key, value in values.items():
        assert wire.ask("AI.TENSORSET", key, "FLOAT", *value.shape, "BLOB", value.tobytes()) == b"OK"
    return values


def loaded_keys(random: Random) -> Sequence[str]:
    return KEYS if random.randrange(20) == 0 else KEYS[:2]


def run_one(wire: Wire, random: Random, among: list[Runnable], protocol: int) -> None:
    values = prepare(wire, random, 3 if random.randrange(8) == 0 else 2)
    dag = random_dag(random, among, loaded_keys(random), NAMES)
    meaning = meaning_of(dag, values)
    reply = wire.ask(*dag.words())
    fault = meaning.check(reply, protocol)
    assert not fault, f"{fault}\n{describe(dag)}\n{reply}"
    expected = {name: values[name] for name in NAMES if name in values} | meaning.stored
    assert keyspace(wire, NAMES) == {name: value.tobytes() for name, value in expected.items()}, describe(dag)


def describe(dag: Dag) -> str:
    return " ".join("|>\n" if word == "|>" else repr(word) for word in dag.words())


@pytest.mark.parametrize(("devices", "protocol"), [(ONE, 2), (SEVERAL, 3)], ids=["one", "several"])
def test_random_dags(server: Server, devices: tuple[str, ...], protocol: int) -> None:
    among = runnables(devices)
    with server.wire(protocol) as wire:
        store_all(wire, among)

        def try_one(random: Random) -> None:
            run_one(wire, random, among, protocol)

        print(f"seed {SEED}")
        test = random_settings(given(st.randoms(use_true_random=False))(try_one))
        (seed(SEED)(test) if SEED else test)()


# ---- what the interpreter takes for wrong ----------------------------------------------------------------------------


def example_dag(*commands: Set | Get | Run) -> DagMeaning:
    return meaning_of(Dag(list(commands)), {})


def test_the_interpreter_finds_wrong_replies() -> None:
    among = {runnable.function or runnable.key: runnable for runnable in runnables(ONE)}
    good, fails = Set("a", random_value(Random(1), 2) * 0, "BLOB"), Set("n", random_value(Random(1), 2) * 0 - 1, "BLOB")
    get = Get("b", ("BLOB",))
    total = Run(among["total"], ("a", "a"), ("b",))
    raising = Run(among["positive"], ("n",), ("c", "d"))
    blob = (good.value * 2).tobytes()

    meaning = example_dag(good, total, get)
    assert meaning.check([b"OK", b"OK", blob]) == ""
    for wrong in ([b"OK", b"OK"], [b"OK", b"NA", b"NA"], [b"OK", b"OK", b"other"], b"TIMEDOUT"):
        assert meaning.check(wrong)

    failed = Error("ERR negative")
    meaning = example_dag(good, fails, raising, total, get)
    assert meaning.check([b"OK", b"OK", failed, b"OK", b"NA"]) == ""
    assert meaning.check([b"OK", b"OK", failed, b"NA", b"NA"]) == ""
    assert meaning.check([b"OK", b"OK", b"OK", b"OK", blob]) == "a failure is missing"
    assert meaning.check([b"OK", b"OK", failed, b"OK", blob])
    meaning = example_dag(good, total, get, fails, raising, good)
    assert meaning.check([b"OK", b"OK", blob, b"OK", failed, b"NA"]) == ""
    assert meaning.check([b"OK", b"NA", b"NA", b"OK", failed, b"NA"]) == ""
    assert meaning.check([b"OK", b"OK", b"NA", b"OK", failed, b"NA"])
    assert meaning.check([b"OK", b"OK", blob, b"OK", failed, b"OK"])


# ---- under load ------------------------------------------------------------------------------------------------------


class Peer(threading.Thread):
    """Sends DAGs and plain runs, several at once, many with a TIMEOUT; breaks the connection now and then.

    Behind each command goes an ECHO of its number: so none of the replies can be missing or too many.
    """

    def __init__(self, on: Server, number: int, among: list[Runnable], hanging: str, until: float) -> None:
        super().__init__(daemon=True)
        self.on, self.among, self.hanging, self.until = on, among, hanging, until
        self.random = Random(f"{SEED}/{number}")
        self.names = [f"{number}:{name}" for name in NAMES]
        self.answered = self.timed_out = self.left = 0
        self.fault = ""

    def run(self) -> None:
        try:
            while time.monotonic() < self.until:
                self.connection()
        except Exception as error:
            self.fault = repr(error)

    def connection(self) -> None:
        with Wire(self.on.port) as wire:
            for _ in range(self.random.randint(1, 20)):
                sent = [self.request() for _ in range(self.random.randint(1, 5))]
                wire.socket.sendall(b"".join(encode(words) + encode(("ECHO", i)) for i, (words, _) in enumerate(sent)))
                if self.random.randrange(12) == 0:
                    self.left += 1
                    wire.abort()
                    return
                for i, (words, meaning) in enumerate(sent):
                    self.check(wire.read(), words, meaning)
                    echo = wire.read()
                    assert echo == b"%d" % i, f"{echo!r} came for ECHO {i}, behind {words}"

    def request(self) -> tuple[tuple[Word, ...], DagMeaning]:
        dag = random_dag(self.random, self.among, (), self.names, most=6, faults=False)
        if self.random.randrange(2):
            dag.timeout = self.random.randint(1, 20)
        if self.random.randrange(8):
            return dag.words(), meaning_of(dag, {})
        # What waits for a batch that never fills can only time out.
        dag.timeout = self.random.randint(1, 20)
        name = self.names[0]
        extra = ("|>", *Set(name, random_value(self.random, 2), "BLOB").words())
        run = ("|>", "AI.MODELEXECUTE", self.hanging, "INPUTS", 1, name, "OUTPUTS", 1, name)
        return (*dag.words(), *extra, *run), DagMeaning(dag, "TIMEDOUT")

    def check(self, reply: Any, words: tuple[Word, ...], meaning: DagMeaning) -> None:
        if isinstance(reply, Simple) and reply == b"TIMEDOUT":
            assert meaning.dag.timeout, f"{words} timed out"
            self.timed_out += 1
            return
        if meaning.refused == "TIMEDOUT":  # a failure elsewhere ends it at once
            assert isinstance(reply, list) and reply[-1] == b"NA", f"{words} was answered {reply}"
        else:
            fault = meaning.check(reply)
            assert not fault, f"{fault}: {words} was answered {reply}"
        self.answered += 1


def load(on: Server, among: list[Runnable], seconds: float, clients: int = 16) -> list[Peer]:
    until = time.monotonic() + seconds
    peers = [Peer(on, number, among, "hanging", until) for number in range(clients)]
    for peer in peers:
        peer.start()
    for peer in peers:
        peer.join(seconds + 60)
        assert not peer.is_alive(), "a reply is missing"
    assert not [peer.fault for peer in peers if peer.fault]
    with on.wire() as wire:
        wait_until_alone(wire)
        wire.ask("DEL", *[name for peer in peers for name in peer.names])
    assert on.blocked_clients() == 0
    return peers


def test_time_outs_and_disconnections(start_server: StartServer) -> None:
    on = start_server(options=["THREADS_PER_QUEUE", 2])
    among = runnables(SEVERAL)
    print(f"seed {SEED}")
    with on.wire() as wire:
        store_all(wire, among)
        line = next(runnable for runnable in among if runnable.key == "line@CPU")
        blob = line.store[-1]
        options: tuple[Word, ...] = ("BATCHSIZE", 2**31, "MINBATCHSIZE", 2**31)
        assert wire.ask("AI.MODELSTORE", "hanging", "ONNX", "CPU", *options, "BLOB", blob) == b"OK"
    load(on, among, SECONDS / 3)
    before = settled_memory(on)
    peers = load(on, among, SECONDS * 2 / 3)
    grown = settled_memory(on) - before
    assert grown < 128 << 10, f"used_memory grew by {grown} bytes"
    assert all(sum(getattr(peer, figure) for peer in peers) for figure in ("answered", "timed_out", "left"))
