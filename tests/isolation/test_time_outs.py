"""Runs that take longer than MODEL_EXECUTION_TIMEOUT, and loads that take longer than MODEL_LOAD_TIMEOUT."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from testkit import models, scripts, tf_models
from testkit.isolation import ADD, ENDED, check_add, deaths, engine, python_backend, store_add, wait_until_runs
from testkit.server import Server
from testkit.tf_models import placeholder, spec
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer

LATE = "ERR a run of 'slow' took more than MODEL_EXECUTION_TIMEOUT, 1000 ms"
RUN = ("AI.MODELEXECUTE", "slow", "INPUTS", 1, "x", "OUTPUTS", 1, "y")


class Forever(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.sum() >= 0):
            x = x + 0
        return x


def tf_while() -> Model:
    def build(tf: Any) -> None:
        loop = tf.while_loop(lambda y: tf.reduce_sum(y) >= 0, lambda y: [y + 0], [placeholder("x")])
        tf.identity(loop[0], name="y")

    return Model("TF", tf_models.graph(build), inputs=("x",), outputs=("y",))


def tflite_while() -> Model:
    tf = tf_models.tensorflow()
    return Model(
        "TFLITE",
        tf_models.tflite(
            lambda x: tf.while_loop(lambda y: tf.reduce_sum(y) >= 0, lambda y: [y + 0], [x])[0], spec([2])
        ),
    )


ENDLESS: dict[str, Callable[[], Model]] = {
    "TORCH": lambda: Model("TORCH", models.torch_module(Forever)),
    "TF": tf_while,
    "TFLITE": tflite_while,
}


@pytest.fixture
def wire(isolated: Server) -> Iterator[Wire]:
    with isolated.wire() as wire:
        store_add(wire)
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 2)
        yield wire


@pytest.mark.parametrize("backend", ENDLESS)
def test_models(wire: Wire, backend: str) -> None:
    wire.ask_ok(*ENDLESS[backend]().words("slow"))
    before = engine(wire)
    reply, taken = wire.timed(*RUN)
    assert reply == LATE
    assert taken >= 1.0
    assert deaths(wire, "slow") == 1
    check_add(wire)
    assert engine(wire).deaths == before.deaths + 1
    assert engine(wire).last_death.startswith("a run of 'slow' took more than MODEL_EXECUTION_TIMEOUT")


def test_onnx_ends_by_itself(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "slow", "ONNX", "CPU", "BLOB", models.onnx_loop())
    wire.ask_ok("AI.TENSORSET", "x", "INT64", "VALUES", 10**12)
    before = engine(wire)
    reply = wire.ask(*RUN)
    assert isinstance(reply, Error) and "the run took more than MODEL_EXECUTION_TIMEOUT, 1000 ms" in reply
    assert engine(wire).pid == before.pid
    assert deaths(wire, "slow") == 0


def test_scripts(wire: Wire) -> None:
    wire.ask("DEL", "slow")
    scripts.store_redis(wire, "for_ever", key="slow")
    assert wire.ask(*scripts.execute("slow", "for_ever", ["x"], [], [], ["y"])) == LATE
    assert deaths(wire, "slow") == 1


def test_a_script_that_waits_for_commands(isolated: Server, wire: Wire) -> None:
    """The time of its commands is the server's, and does not count: here writes are paused."""
    wire.ask("DEL", "slow")
    scripts.store_redis(wire, "increment", key="slow")
    wire.ask("DEL", "started", "go", "done")
    with isolated.wire() as busy:
        busy.send(*scripts.execute("slow", "increment", ["counter"], [], ["1"], []))
        assert busy.read() == b"OK"
        wire.ask_ok("CLIENT", "PAUSE", 2500, "WRITE")
        busy.send(*scripts.execute("slow", "increment", ["counter"], [], ["1"], []))
        assert busy.read() == b"OK"
    assert deaths(wire, "slow") == 0


def test_a_dag(wire: Wire) -> None:
    wire.ask("DEL", "slow")
    wire.ask_ok(*ENDLESS["TORCH"]().words("slow"))
    reply = wire.ask("AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 1, "y", "|>", *RUN)
    assert LATE in str(reply)
    assert wire.ask("EXISTS", "y") == 0


def test_others_are_run_again(python_models: Server) -> None:
    """What ran beside it, or waited behind it, is run by the next process."""
    with python_models.wire() as wire, python_models.wire() as busy, python_models.wire() as other:
        store_add(wire, blob=ADD)
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        wire.ask_ok("AI.MODELSTORE", "slow", "ONNX", "CPU", "BLOB", b"import time\ndef run(i):\n    time.sleep(1e6)\n")
        check_add(wire)
        busy.send(*RUN)
        wait_until_runs(wire, "slow")
        for _ in range(20):
            other.send("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "z")
        assert busy.read() == LATE
        assert [other.read() for _ in range(20)] == [b"OK"] * 20
        assert deaths(wire, "add") == 0


def test_one_that_runs_at_the_same_time_is_run_again(start_server: StartServer, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    options: list[str | int] = ["ISOLATION", "process", "THREADS_PER_QUEUE", 2, "MODEL_EXECUTION_TIMEOUT", 1000]
    options += ["ALLOW_FILE_OPS", 1]
    server = start_server(options=[*options, "BACKENDSPATH", str(python_backend(tmp_path))])
    with server.wire() as wire, server.wire() as busy, server.wire() as other:
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1)
        wire.ask_ok("AI.MODELSTORE", "slow", "ONNX", "CPU", "BLOB", b"import time\ndef run(i):\n    time.sleep(1e6)\n")
        beside = (
            f"import time\ndef run(inputs):\n    open({str(runs)!r}, 'a').write('.')\n    time.sleep(0.7)\n"
            "    return inputs\n"
        )
        wire.ask_ok("AI.MODELSTORE", "beside", "ONNX", "CPU", "BLOB", beside.encode())
        begun = time.monotonic()
        busy.send(*RUN)
        wait_until_runs(wire, "slow")
        wait_for(lambda: time.monotonic() - begun > 0.6)
        other.send("AI.MODELEXECUTE", "beside", "INPUTS", 1, "x", "OUTPUTS", 1, "z")
        assert busy.read() == LATE
        assert other.read() == b"OK"
        assert runs.read_text() in ("..", ".")  # one where the machine was late
        assert deaths(wire, "beside") == 0


def test_a_script_that_has_called_is_not_run_again(python_models: Server) -> None:
    """It may have written."""
    with python_models.wire() as wire, python_models.wire() as busy:
        scripts.store_redis(wire, "gone_on")
        wire.ask("DEL", "started", "go", "done")
        busy.send(*scripts.execute("s", "gone_on", ["started", "go", "done"]))
        wait_for(lambda: wire.ask("EXISTS", "started"), 60)
        wire.ask_ok("AI.KILL", "s")
        assert isinstance(busy.read(), Error)
        wire.ask("DEL", "started")
        check_add_of(wire)
        assert wire.ask("EXISTS", "started") == 0


def check_add_of(wire: Wire) -> None:
    store_add(wire, blob=ADD)
    check_add(wire)


# ---- loads ---------------------------------------------------------------------------------------------------------


def test_a_load(python_models: Server) -> None:
    with python_models.wire() as wire:
        check_add_of(wire)
        reply, taken = wire.timed("AI.MODELSTORE", "late", "ONNX", "CPU", "BLOB", b"while True: pass")
        late = "to compile 'late' took more than MODEL_LOAD_TIMEOUT, 10000 ms"
        assert reply == f"ERR the process that compiled 'late' ended: {late}; CPU starts anew"
        assert taken >= 10.0
        assert wire.ask("EXISTS", "late") == 0
        check_add(wire)


def test_runs_beside_a_late_load_are_run_again(python_models: Server) -> None:
    with python_models.wire() as wire, python_models.wire() as busy:
        check_add_of(wire)
        busy.send("AI.MODELSTORE", "late", "ONNX", "CPU", "BLOB", b"import time\ntime.sleep(1e6)")
        wait_for(lambda: b"model=late" in wire.ask("INFO", "MODULES"), 60)
        replies = set()
        deadline = time.monotonic() + 11
        while time.monotonic() < deadline:
            replies.add(wire.ask("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "z"))
        assert re.fullmatch(ENDED, str(busy.read()))
        assert replies == {b"OK"}
        assert deaths(wire, "add") == 0


def test_no_limit(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(options=["ISOLATION", "process", "BACKENDSPATH", str(python_backend(tmp_path))])
    with server.wire() as wire:
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", b"import time\ntime.sleep(6)\n" + ADD)
