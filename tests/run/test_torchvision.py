"""TorchScript models with operators of torchvision: where it is installed, where it is not, where it does not fit."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from testkit import models, vision
from testkit.packages import python_without
from testkit.paths import WITHOUT_DIRECT
from testkit.server import Server, module_path
from testkit.wire import Error, Wire
from tests.conftest import StartServer

BOXES = np.array([[0, 0, 4, 4], [0, 0, 4, 4.5], [1, 1, 2, 2]], np.float32)
SCORES = np.array([0.5, 0.6, 0.7], np.float32)
IMAGE = np.arange(50, dtype=np.float32).reshape(1, 2, 5, 5)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return vision.make_stand_ins(tmp_path_factory.mktemp("stand_ins"))


@pytest.fixture(scope="module")
def torchvision(environment: dict[str, str]) -> Any:
    import torchvision

    return torchvision


@pytest.fixture(scope="module", params=[{}, WITHOUT_DIRECT], ids=["direct", "python"])
def wire(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Wire]:
    folder = tmp_path_factory.mktemp("vision")
    server = Server(folder, module=module_path(), environment={**environment, **request.param}).start()
    with server.wire() as wire:
        yield wire
    assert server.stop() == 0, server.log_tail()


def store(wire: Wire, blob: bytes) -> object:
    return wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", blob)


def run(wire: Wire, noutputs: int, *inputs: Any) -> list[Any]:
    for number, array in enumerate(inputs):
        wire.ask_ok("AI.TENSORSET", f"x{number}", "FLOAT", *array.shape, "BLOB", array.tobytes())
    names = [f"x{number}" for number in range(len(inputs))]
    outputs = [f"y{number}" for number in range(noutputs)]
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", len(names), *names, "OUTPUTS", noutputs, *outputs)
    if isinstance(reply, Error):
        raise RuntimeError(reply)
    results = []
    for name in outputs:
        _, dtype, _, shape, _, blob = wire.ask("AI.TENSORGET", name, "META", "BLOB")
        results.append(np.frombuffer(blob, {b"FLOAT": "f4", b"INT64": "i8"}[dtype]).reshape(shape))
    return results


def test_boxes(wire: Wire, torchvision: Any) -> None:
    """The outputs are equal to the framework's own."""
    ops = torchvision.ops

    class Detect(nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            keep = ops.nms(boxes, scores, 0.5)
            places = torch.cat([torch.zeros(keep.numel(), 1), boxes[keep]], 1)
            return keep, ops.roi_align(image, places, [2, 2]), ops.roi_pool(image, places, [2, 2])

    assert store(wire, models.torch_blob(Detect())) == b"OK"
    found = run(wire, 3, BOXES, SCORES, IMAGE)
    wanted = Detect()(*map(torch.from_numpy, (BOXES, SCORES, IMAGE)))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other.numpy())
    assert found[0].tolist() == [2, 1]


def test_the_head_of_a_detector(wire: Wire, torchvision: Any) -> None:
    """From features and proposals to boxes, labels and scores, with random weights."""
    detection = torchvision.models.detection
    torch.manual_seed(3)

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pool = torchvision.ops.MultiScaleRoIAlign(["0"], 3, 2)
            head = detection.faster_rcnn.TwoMLPHead(2 * 9, 8)
            predictor = detection.faster_rcnn.FastRCNNPredictor(8, 3)
            weights = (10.0, 10.0, 5.0, 5.0)
            self.heads = detection.roi_heads.RoIHeads(pool, head, predictor, 0.5, 0.5, 16, 0.25, weights, 0.05, 0.5, 10)

        def forward(self, features: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            result, _ = self.heads({"0": features}, [proposals], [(20, 20)])
            return result[0]["boxes"], result[0]["labels"], result[0]["scores"]

    head = Head().eval()
    features = np.random.default_rng(1).random((1, 2, 10, 10), np.float32)
    proposals = np.array([[0, 0, 10, 10], [2, 2, 18, 12], [5, 1, 9, 19]], np.float32)
    assert store(wire, models.torch_blob(head)) == b"OK"
    found = run(wire, 3, features, proposals)
    with torch.no_grad():
        wanted = head(torch.from_numpy(features), torch.from_numpy(proposals))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-5)
    assert len(found[0]) > 1


@pytest.mark.parametrize("number", [-1, 1, 1e9, np.nan])
@pytest.mark.parametrize("operator", ["roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"])
def test_a_box_of_an_image_that_is_not_there(wire: Wire, torchvision: Any, operator: str, number: float) -> None:
    function = getattr(torchvision.ops, operator)

    class Align(nn.Module):
        def forward(self, image: Tensor, boxes: Tensor) -> Tensor:
            return function(image, boxes, 1)

    assert store(wire, models.torch_blob(Align())) == b"OK"
    assert run(wire, 1, IMAGE, np.array([[0, 0, 0, 4, 4]], np.float32))[0].shape[0] == 1
    with pytest.raises(RuntimeError, match="^ERR ValueError: a box is of an image that is not there: there are 1 "):
        run(wire, 1, IMAGE, np.array([[number, 0, 0, 4, 4]], np.float32))


def test_internal_operators_are_refused(wire: Wire, torchvision: Any) -> None:
    class Version(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.ops.torchvision._cuda_version()

    reply = store(wire, models.torch_blob(Version()))
    assert isinstance(reply, Error) and reply.startswith("ERR torchvision::_cuda_version") and "cannot be used" in reply


class Nms(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        return torch.ops.torchvision.nms(boxes, scores, 0.5)


def test_where_it_is_not_installed(start_server: StartServer, torchvision: Any, tmp_path: Path) -> None:
    python = python_without(tmp_path, "torchvision")
    with start_server(options=["PYTHON", str(python), "ALLOW_FILE_OPS", 1]).wire() as wire:
        reply = store(wire, models.torch_blob(Nms()))
        needs = "ERR the model needs the package torchvision, for torchvision::nms; install it into "
        assert reply == f"{needs}{python.parents[1]} (pip install torchvision)"
        assert store(wire, models.torch_module(models.Add)) == b"OK"


def test_where_it_does_not_fit(start_server: StartServer, torchvision: Any, tmp_path: Path) -> None:
    """Its library cannot be loaded."""
    python = python_without(tmp_path, "torchvision")
    package = next(python.parents[1].glob("lib/*/site-packages")) / "torchvision"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_C.so").write_bytes(b"no library")
    with start_server(options=["PYTHON", str(python), "ALLOW_FILE_OPS", 1]).wire() as wire:
        reply = store(wire, models.torch_blob(Nms()))
        needs = "ERR the model needs the package torchvision, for torchvision::nms, which does not fit PyTorch"
        assert isinstance(reply, Error) and reply.startswith(f"{needs} {torch.__version__}: "), reply
        assert "_C.so" in reply
        assert store(wire, models.torch_module(models.Add)) == b"OK"
