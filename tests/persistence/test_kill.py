"""Whatever was acknowledged is there after kill -9, from the AOF and from an RDB file; and models outlive a library
that is missing.
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from testkit import models, samples
from testkit.restarts import is_saving, rewrite
from testkit.server import Server, module_path
from testkit.values import Model, Tensor
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

AOF = ("--appendonly", "yes", "--appendfsync", "always")
WRITERS = 4
VARIANTS = 8
STEPS = 60  # by all writers together, before each kill

Floats = npt.NDArray[np.float32]

# ---- kill -9 ---------------------------------------------------------------------------------------------------------


class AddNumber(nn.Module):
    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.number


@cache
def model(variant: int) -> Model:
    """x + variant. The ONNX ones carry ballast, so that storing them takes a while."""
    if variant % 2:
        return Model("TORCH", models.torch_blob(AddNumber(float(variant))))
    kind = onnx.TensorProto.FLOAT
    constants = [
        numpy_helper.from_array(np.array([variant], np.float32), "number"),
        numpy_helper.from_array(np.random.default_rng(variant).random(20000, np.float32), "ballast"),
    ]
    node = onnx.helper.make_node("Add", ["x", "number"], ["y"])
    return Model(
        "ONNX", models.onnx_model([node], [models.value("x", kind, ["n"])], [models.value("y", kind, ["n"])], constants)
    )


def numbers(writer: int, step: int) -> Floats:
    random = np.random.default_rng((writer, step))
    return random.random(int(random.integers(1, 5000)), np.float32)


def commands(writer: int, step: int) -> list[tuple[Word, ...]]:
    data, name, stored = numbers(writer, step), f"{writer}:{step}", model(step % VARIANTS)
    run = ("AI.MODELEXECUTE", f"m:{name}", "INPUTS", 1, f"t:{name}", "OUTPUTS", 1)
    return [
        ("AI.TENSORSET", f"t:{name}", "FLOAT", len(data), "BLOB", data.tobytes()),
        ("AI.MODELSTORE", f"m:{name}", stored.backend, "CPU", "TAG", name, "BLOB", stored.blob),
        (*run, f"o:{name}"),
        (*run, f"latest:{writer}"),
        ("AI.MODELSTORE", f"deleted:{name}", stored.backend, "CPU", "BLOB", stored.blob),
        ("AI.MODELDEL", f"deleted:{name}"),
    ]


class Writer:
    """Goes through the commands of step after step until the server is gone."""

    def __init__(self, server: Server, number: int, last_step: int) -> None:
        self.number = number
        self.sent = last_step
        self.done: list[int] = []  # the steps acknowledged, each command of them
        self.error: BaseException | None = None
        self.wire = server.wire()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self) -> None:
        try:
            while True:
                self.sent += 1
                for words in commands(self.number, self.sent):
                    reply = self.wire.ask(*words)
                    assert reply == b"OK", reply
                self.done.append(self.sent)
        except OSError:  # the kill
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.wire.close()


def kill_at_work(server: Server, writers: list[Writer], steps: int) -> None:
    try:
        wait_for(
            lambda: sum(len(writer.done) for writer in writers) >= steps or any(writer.error for writer in writers),
            60,
            "the writers have written",
        )
    finally:
        server.kill()
        for writer in writers:
            writer.thread.join()
    for writer in writers:
        if writer.error:
            raise writer.error


def start_writers(server: Server, last_steps: list[int]) -> list[Writer]:
    for variant in range(VARIANTS):
        model(variant)  # they would all build it at once
    return [Writer(server, number, last_step) for number, last_step in enumerate(last_steps)]


def check_step(wire: Wire, writer: int, step: int) -> None:
    """All of a step is there, to the byte, and its model runs."""
    data, name, stored = numbers(writer, step), f"{writer}:{step}", model(step % VARIANTS)
    assert wire.ask("AI.TENSORGET", f"t:{name}") == reply(data)
    assert wire.ask("AI.TENSORGET", f"o:{name}") == reply(data + np.float32(step % VARIANTS))
    assert wire.ask("AI.MODELGET", f"m:{name}", "BLOB") == stored.blob
    meta = wire.ask("AI.MODELGET", f"m:{name}", "META")
    assert (meta[1], meta[5]) == (stored.backend.encode(), name.encode())
    assert wire.ask("AI.MODELEXECUTE", f"m:{name}", "INPUTS", 1, f"t:{name}", "OUTPUTS", 1, "check") == b"OK"
    assert wire.ask("AI.TENSORGET", "check") == reply(data + np.float32(step % VARIANTS))
    assert wire.ask("EXISTS", f"deleted:{name}") == 0


def check_unfinished_step(wire: Wire, writer: int, step: int) -> None:
    """What was not acknowledged may be there or not, but not in part."""
    data, name, stored = numbers(writer, step), f"{writer}:{step}", model(step % VARIANTS)
    total = data + np.float32(step % VARIANTS)
    assert not wire.ask("EXISTS", f"t:{name}") or wire.ask("AI.TENSORGET", f"t:{name}") == reply(data)
    assert not wire.ask("EXISTS", f"m:{name}") or wire.ask("AI.MODELGET", f"m:{name}", "BLOB") == stored.blob
    assert not wire.ask("EXISTS", f"o:{name}") or wire.ask("AI.TENSORGET", f"o:{name}") == reply(total)


def check_latest(wire: Wire, writer: int, steps: range) -> None:
    """The overwritten tensor is that of the last step acknowledged, or of a later one."""
    expected = [reply(numbers(writer, step) + np.float32(step % VARIANTS)) for step in steps]
    assert wire.ask("AI.TENSORGET", f"latest:{writer}") in expected


def reply(data: Floats) -> list[object]:
    return samples.tensor_reply(Tensor("FLOAT", data.shape, data.tobytes()))


def test_everything_acknowledged_is_in_the_aof(start_server: StartServer) -> None:
    server = start_server(*AOF)
    last_steps = [0] * WRITERS
    for _ in range(3):
        writers = start_writers(server, last_steps)
        kill_at_work(server, writers, STEPS)
        server.start()
        with server.wire() as wire:
            for writer in writers:
                for step in writer.done:
                    check_step(wire, writer.number, step)
                check_unfinished_step(wire, writer.number, writer.sent)
                if writer.done:
                    check_latest(wire, writer.number, range(writer.done[-1], writer.sent + 1))
        last_steps = [writer.sent for writer in writers]


def test_everything_acknowledged_before_a_save_is_in_the_rdb_file(start_server: StartServer) -> None:
    server = start_server()
    writers = start_writers(server, [0] * WRITERS)
    try:
        wait_for(lambda: sum(len(writer.done) for writer in writers) >= STEPS, 60, "the writers have written")
        done = [len(writer.done) for writer in writers]
        with server.wire() as wire:
            assert wire.ask("SAVE") == b"OK"
    finally:
        kill_at_work(server, writers, 2 * STEPS)
    server.start()
    with server.wire() as wire:
        for writer, count in zip(writers, done, strict=True):
            for step in writer.done[:count]:
                check_step(wire, writer.number, step)
            for step in range(count + 1, writer.sent + 1):
                check_unfinished_step(wire, writer.number, step)
            if count:
                check_latest(wire, writer.number, range(count, writer.sent + 1))


def test_a_save_cut_off_by_a_kill_leaves_the_one_before(start_server: StartServer) -> None:
    server = start_server("--rdb-key-save-delay", "2000")
    with server.wire() as wire:
        samples.fill(wire)
        before = samples.contents(wire)
        assert wire.ask("SAVE") == b"OK"
        for number in range(2000):
            assert wire.ask("AI.TENSORSET", f"later {number}", "INT8", 1) == b"OK"
        assert wire.ask("BGSAVE") == b"Background saving started"
        assert is_saving(wire)
    server.kill()
    server.start()
    with server.wire() as wire:
        samples.check_filled(wire, before)


# ---- a library that is missing ---------------------------------------------------------------------------------------


def backend_folder(name: str) -> Path:
    return module_path().parent / "backends" / name


BACKENDS = {"onnx": "redisai_onnxruntime", "torch": "redisai_torch"}


def without_library(path: Path, *names: str) -> Path:
    """A backends path with these backends, or all, whose libraries cannot be imported."""
    for folder in [BACKENDS[name] for name in names or BACKENDS]:
        (path / folder).mkdir(parents=True)
        (path / folder / f"{folder}.py").write_text("import library_that_nobody_has\n")
    return path


@pytest.fixture(params=["no backends", "no library"])
def without(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "backends"
    path.mkdir()
    return without_library(path) if request.param == "no library" else path


def check_cannot_run(wire: Wire, name: str) -> None:
    samples.store_tensor(wire, "x", samples.TENSORS["FLOAT"])
    answer = wire.ask("AI.MODELEXECUTE", name, "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
    assert isinstance(answer, Error)
    assert answer.startswith(f"ERR Could not load backend: {name.upper()}: ")
    assert wire.ask("DEL", "x") == 1


def check_kept(wire: Wire) -> None:
    for name in BACKENDS:
        sample = samples.MODELS[name]
        assert wire.ask("AI.MODELGET", name, "BLOB") == sample.blob
        meta = wire.ask("AI.MODELGET", name, "META")
        assert meta[:10] == samples.model_meta(sample)[:10]
        check_cannot_run(wire, name)
    assert sorted(wire.ask("AI._MODELSCAN")) == [[b"onnx", b"v1:add"], [b"torch", b""]]


@pytest.mark.parametrize(("aof", "name"), [(False, "onnx"), (True, "torch")], ids=["from RDB", "from AOF"])
def test_models_outlive_a_missing_library(start_server: StartServer, tmp_path: Path, aof: bool, name: str) -> None:
    """Of the other model not even the backend is there."""
    without = without_library(tmp_path / "backends", name)
    arguments = (*AOF, "--aof-use-rdb-preamble", "no") if aof else ()
    server = start_server(*arguments)
    with server.wire() as wire:
        for each in BACKENDS:
            assert wire.ask(*samples.MODELS[each].words(each)) == b"OK"
        wire.ask("SAVE")
    server.stop()

    server.options = ["BACKENDSPATH", str(without)]
    server.start()
    with server.wire() as wire:
        check_kept(wire)
        # nothing new is taken that could never have run, and what was there stays
        refused = wire.ask(*samples.ONNX.words("onnx"))
        assert isinstance(refused, Error) and refused.startswith("ERR Could not load backend: ONNX: ")
        check_kept(wire)
        if aof:
            rewrite(wire)
        else:
            assert wire.ask("SAVE") == b"OK"
    server.kill()
    server.start()
    with server.wire() as wire:
        check_kept(wire)
        for each, folder in BACKENDS.items():
            path = backend_folder(folder) / f"{folder}.so"
            assert wire.ask("AI.CONFIG", "LOADBACKEND", each.upper(), str(path)) == b"OK"
            samples.check_run(wire, each)
        assert b"ai_onnxruntime_version" in wire.ask("INFO", "modules")
    assert server.stop() == 0


def test_the_right_backends_path_makes_models_run(start_server: StartServer, without: Path) -> None:
    server = start_server()
    with server.wire() as wire:
        assert wire.ask(*samples.ONNX.words("onnx")) == b"OK"
        assert wire.ask("SAVE") == b"OK"
    server.kill()
    server.options = ["BACKENDSPATH", str(without)]
    server.start()
    with server.wire() as wire:
        check_cannot_run(wire, "onnx")
        assert wire.ask("AI.CONFIG", "BACKENDSPATH", str(module_path().parent / "backends")) == b"OK"
        assert wire.ask("AI.CONFIG", "LOADBACKEND", "ONNX", "redisai_onnxruntime/redisai_onnxruntime.so") == b"OK"
        samples.check_run(wire, "onnx")


def test_a_library_that_an_option_asks_for_may_be_missing(start_server: StartServer, tmp_path: Path) -> None:
    """The data matter more than the option: the server starts, and the reason is in the log."""
    path = without_library(tmp_path / "backends")
    options = ["BACKENDSPATH", str(path), "ONNX", "redisai_onnxruntime/redisai_onnxruntime.so"]
    server = start_server(options=options)
    with server.wire() as wire:
        assert b"ai_RedisAI_version" in wire.ask("INFO", "modules")
        samples.store_tensor(wire, "t", samples.TENSORS["FLOAT"])
        samples.restore(wire, "onnx", samples.ONNX)
        check_cannot_run(wire, "onnx")
    assert "Could not load backend: ONNX: No module named" in server.log()
