"""MobileNetV2 as the benchmark has it: the same for every library, on the server and in the loop it is held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from bench.images import Clients, run
from bench.library_loop import library
from bench.mobilenet import BACKENDS, answer, images, mobilenet, network
from bench.report import Plan
from testkit.load import modelstore
from testkit.networks import Network
from testkit.server import Server

SIDE = 32  # the least that the strides leave a pixel of


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest) -> Iterator[Network]:
    yield mobilenet(request.param, SIDE)


def test_images_are_told_apart() -> None:
    outputs = answer(network(), images("TF", 8, SIDE))
    assert np.isfinite(outputs).all()
    assert 0.1 < outputs.std(0).mean() < 10
    assert len(set(outputs.argmax(1).tolist())) > 1


def test_the_server_agrees_with_numpy(model: Network, server: Server) -> None:
    """Every reply is compared, those of batches too."""
    name = model.backend.lower()
    with server.wire() as wire:
        wire.socket.sendall(modelstore(name, model, "BATCHSIZE", 4))
        assert wire.read() == b"OK"
    clients = Clients(server, name, model, 8)
    rate, latencies = clients.run(batch=4, seconds=0.1)
    clients.close()
    assert rate > 0 and 0 < min(latencies) < 10
    with server.wire() as wire:
        reply = wire.ask("AI.INFO", name, "FULL")
        assert float(reply[reply.index(b"average_batch") + 1]) > 1


def test_a_wrong_reply_ends_the_measurement(server: Server) -> None:
    model = mobilenet("ONNX", SIDE)
    with server.wire() as wire:
        wire.socket.sendall(modelstore("m", model))
        assert wire.read() == b"OK"
    wrong = replace(model, output=model.output + np.float32(0.01))
    clients = Clients(server, "m", wrong, 1)
    with pytest.raises(RuntimeError, match="a wrong reply"):
        clients.run(1, 0.1)
    clients.close()


def test_the_library_runs_in_a_process_of_its_own(model: Network) -> None:
    with library(model) as direct:
        assert direct.rate(1, 0.05) > 0
        assert direct.rate(3, 0.05) > 0
        process = direct.process
    assert process.poll() is not None


def test_a_look_at_the_whole_part(capsys: pytest.CaptureFixture[str]) -> None:
    report = run(Plan(seconds=0.1, repeat=1, quick=True, wanted=("mobilenet-onnx",)))
    assert [(row["batch"], row["connections"]) for row in report.rows] == [(8, 8), (8, 16)]
    assert len(report.goals) == 1 and report.goals[0].value > 0 and not report.skipped
    assert capsys.readouterr().out.count("share") == 2
