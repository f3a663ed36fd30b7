"""Random DAGs against a plain interpreter of the same ops.

REDISAI_EXAMPLES is how many DAGs are tried on each set of devices, REDISAI_SEED what they begin with; without a seed
the DAGs are the same every time.
"""

from __future__ import annotations

import os
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
from testkit.server import Server
from testkit.wire import Error, Wire

EXAMPLES = int(os.environ.get("REDISAI_EXAMPLES", "150"))
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
