"""Every DAG of the reference and of the introduction, as printed: the commands, and the printed results.

Where the reference is at odds with itself, the test follows what it means, and says so. The introduction's DAGs are
older than the commands: they are written here as the commands are.
"""

# TorchScript reads comments about types in the code that it compiles, so they cannot stand there.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from testkit import dags, models, tf_models
from testkit.dags import OK, check
from testkit.replicas import caught_up, follow
from testkit.scripts import values
from testkit.wire import Simple, Wire, Word
from tests.conftest import StartServer


def run(wire: Wire, line: str) -> Any:
    """The reply to a command in which blobs have names."""
    blobs = {"<image>": image, "<picture>": picture}
    return wire.ask(*(blobs[word]() if word in blobs else word for word in line.split()))


def ok(wire: Wire, line: str, *more: Word) -> None:
    reply = wire.ask(*line.split(), *more)
    assert (type(reply), reply) == (Simple, b"OK"), line


class Classifier(nn.Module):
    """x FLOAT [1, 2] -> classes INT64 [1, 1], predictions FLOAT [2, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([[0.2, 0.4, 0.6, 0.8], [0.0, 0.0, 0.0, 0.0]]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = (x @ self.weights).reshape(2, 2)
        return scores.flatten().argmax().reshape(1, 1), scores


# As printed, but that VALUES answers the values alone.
PREDICTIONS = [b"1", b"2", b"3", b"4"]


def predicted(reply: list[object]) -> list[object]:
    """The reply with its floats rounded: 0.2 has no exact binary form."""
    values = reply[2]
    assert isinstance(values, list)
    return [*reply[:2], [b"%d" % round(float(value)) for value in values]]


def test_dagexecute(wire: Wire) -> None:
    ok(wire, "AI.MODELSTORE mymodel{tag} TORCH CPU BLOB", models.torch_module(Classifier))
    reply = run(
        wire,
        "AI.DAGEXECUTE PERSIST 1 predictions{tag} |>"
        " AI.TENSORSET mytensor FLOAT 1 2 VALUES 5 10 |>"
        " AI.MODELEXECUTE mymodel{tag} INPUTS 1 mytensor OUTPUTS 2 classes predictions{tag} |>"
        " AI.TENSORGET predictions{tag} VALUES",
    )
    check(predicted(reply), [OK, OK, PREDICTIONS])
    assert dags.keys(wire) == [b"mymodel{tag}", b"predictions{tag}"]
    assert wire.ask("AI.TENSORGET", "predictions{tag}", "META") == [b"dtype", b"FLOAT", b"shape", [2, 2]]


def test_dagrun(wire: Wire) -> None:
    ok(wire, "AI.MODELSTORE mymodel TORCH CPU BLOB", models.torch_module(Classifier))
    reply = run(
        wire,
        "AI.DAGRUN PERSIST 1 predictions |>"
        " AI.TENSORSET mytensor FLOAT 1 2 VALUES 5 10 |>"
        " AI.MODELRUN mymodel INPUTS mytensor OUTPUTS classes predictions |>"
        " AI.TENSORGET predictions VALUES",
    )
    check(predicted(reply), [OK, OK, PREDICTIONS])
    assert dags.keys(wire) == [b"mymodel", b"predictions"]
    assert wire.ask("AI.TENSORGET", "predictions", "META") == [b"dtype", b"FLOAT", b"shape", [2, 2]]


# ---- images ----------------------------------------------------------------------------------------------------------

LABEL = 111


class Network(nn.Module):
    """A small one for 1 x 3 x 224 x 224 images, 1000 classes, with weights that are always the same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Conv2d(3, 8, 7, stride=4, padding=3)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.classes = nn.Linear(16, 1000)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(image))))
        return torch.softmax(self.classes(x.mean((2, 3))), 1)


@functools.cache
def network() -> nn.Module:
    """The network, told that the image below is of class 111."""
    made = Network().eval()
    with torch.no_grad():
        made.classes.bias[LABEL] = 3
    return made


@functools.cache
def image() -> bytes:
    return np.random.default_rng(3).integers(0, 256, (224, 224, 3), np.uint8).tobytes()


def test_the_network_is_right_about_the_image() -> None:
    pixels = torch.from_numpy(np.frombuffer(image(), np.uint8).reshape(224, 224, 3).copy())
    with torch.no_grad():
        classes = network()((pixels.float() / 255).permute(2, 0, 1).unsqueeze(0))
    assert int(classes.argmax()) == LABEL


SCRIPT = """
def pre_process_3ch(tensors: List[Tensor], keys: List[str], args: List[str]):
    return (tensors[0].float() / 255).permute(2, 0, 1).unsqueeze(0)

def post_process(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0].max(1)[1]
"""
OLD_SCRIPT = """
def pre_process_3ch(image):
    return (image.float() / 255).permute(2, 0, 1).unsqueeze(0)

def post_process(output):
    return output.max(1)[1]
"""

CLASSIFY = (
    "AI.TENSORSET image UINT8 224 224 3 BLOB <image> |>"
    " AI.SCRIPTEXECUTE imagenet_script{tag} pre_process_3ch INPUTS 1 image OUTPUTS 1 temp_key1 |>"
    " AI.MODELEXECUTE imagenet_model{tag} INPUTS 1 temp_key1 OUTPUTS 1 temp_key2 |>"
    " AI.SCRIPTEXECUTE imagenet_script{tag} post_process INPUTS 1 temp_key2 OUTPUTS 1 output |>"
    " AI.TENSORGET output VALUES"
)
OLD_CLASSIFY = (
    "AI.TENSORSET image UINT8 224 224 3 BLOB <image> |>"
    " AI.SCRIPTRUN imagenet_script pre_process_3ch INPUTS image OUTPUTS temp_key1 |>"
    " AI.MODELRUN imagenet_model INPUTS temp_key1 OUTPUTS temp_key2 |>"
    " AI.SCRIPTRUN imagenet_script post_process INPUTS temp_key2 OUTPUTS output |>"
    " AI.TENSORGET output VALUES"
)


def test_dagexecute_of_an_image(wire: Wire) -> None:
    ok(wire, "AI.SCRIPTSTORE imagenet_script{tag} CPU ENTRY_POINTS 2 pre_process_3ch post_process SOURCE", SCRIPT)
    ok(wire, "AI.MODELSTORE imagenet_model{tag} TORCH CPU BLOB", models.torch_blob(network()))
    before = wire.ask("DEBUG", "DIGEST")
    # printed with one level of arrays more
    check(run(wire, f"AI.DAGEXECUTE ROUTING {{tag}} |> {CLASSIFY}"), [OK, OK, OK, OK, [LABEL]])
    assert wire.ask("DEBUG", "DIGEST") == before, "nothing is stored"


def test_dagrun_ro_of_an_image(start_server: StartServer) -> None:
    """On a master, and on its read-only replica, which is what the command is for."""
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    follow(replica, master)
    with master.wire() as wire, replica.wire() as other:
        ok(wire, "AI.SCRIPTSET imagenet_script CPU SOURCE", OLD_SCRIPT)
        ok(wire, "AI.MODELSTORE imagenet_model TORCH CPU BLOB", models.torch_blob(network()))
        caught_up(wire)
        for connection in (wire, other):
            check(run(connection, f"AI.DAGRUN_RO |> {OLD_CLASSIFY}"), [OK, OK, OK, OK, [LABEL]])
            assert sorted(connection.ask("KEYS", "*")) == [b"imagenet_model", b"imagenet_script"]


# ---- the introduction ------------------------------------------------------------------------------------------------

PREPROC = "def normalize(image):\n    return image / 255\n"
POSTPROC = """
def probstolabel(probabilities):
    return probabilities.max(1)[1]

def ensamble(a, b):
    return (a + b) / 2
"""


class Resnet(nn.Module):
    """x FLOAT [1, 3, 224, 224] -> FLOAT [1, 3]: how much of each colour there is."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@functools.cache
def picture() -> bytes:
    """Mostly of the second colour."""
    data = np.full((1, 3, 224, 224), 10, np.float32)
    data[:, 1] = 200
    return data.tobytes()


@pytest.fixture
def introduced(wire: Wire) -> Wire:
    ok(wire, "AI.SCRIPTSET preproc CPU SOURCE", PREPROC)
    ok(wire, "AI.SCRIPTSET postproc CPU SOURCE", POSTPROC)
    ok(wire, "AI.MODELSET resnet18 TORCH CPU BLOB", models.torch_module(Resnet))
    return wire


PIPELINE = (
    "|> AI.TENSORSET ~img~ FLOAT 1 3 224 224 BLOB <picture>"
    " |> AI.SCRIPTRUN preproc normalize INPUTS ~img~ OUTPUTS ~in~"
    " |> AI.MODELRUN resnet18 INPUTS ~in~ OUTPUTS ~out~"
)


def test_a_pipeline(introduced: Wire) -> None:
    last = "|> AI.SCRIPTRUN postproc probstolabel INPUTS ~out~ OUTPUTS label"
    check(run(introduced, f"AI.DAGRUN PERSIST 1 label {PIPELINE} {last}"), [OK] * 4)
    assert values(introduced, "label") == [1]
    assert dags.keys(introduced) == [b"label", b"postproc", b"preproc", b"resnet18"]


def test_a_pipeline_that_only_reads(introduced: Wire) -> None:
    last = "|> AI.SCRIPTRUN postproc probstolabel INPUTS ~out~ OUTPUTS ~label~ |> AI.TENSORGET ~label~ VALUES"
    check(run(introduced, f"AI.DAGRUN_RO {PIPELINE} {last}"), [*[OK] * 4, [1]])
    assert dags.keys(introduced) == [b"postproc", b"preproc", b"resnet18"]


def test_an_ensemble(introduced: Wire) -> None:
    """One model of TensorFlow, one of PyTorch, each on a device of its own; printed with GPU0 and GPU1."""
    graph = tf_models.graph(
        lambda tf: tf.reduce_mean(tf_models.placeholder("x", shape=(None, 3, 224, 224)), [2, 3], name="y")
    )
    ok(introduced, "AI.MODELSET resnet18a TF CPU INPUTS x OUTPUTS y BLOB", graph)
    ok(introduced, "AI.MODELSET resnet18b TORCH CPU:1 BLOB", models.torch_module(Resnet))
    ok(introduced, "AI.TENSORSET img FLOAT 1 3 224 224 BLOB", picture())
    reply = run(
        introduced,
        "AI.DAGRUN LOAD 1 img PERSIST 1 label"
        " |> AI.SCRIPTRUN preproc normalize INPUTS img OUTPUTS ~in~"
        " |> AI.MODELRUN resnet18a INPUTS ~in~ OUTPUTS ~out1~"
        " |> AI.MODELRUN resnet18b INPUTS ~in~ OUTPUTS ~out2~"
        " |> AI.SCRIPTRUN postproc ensamble INPUTS ~out1~ ~out2~ OUTPUTS ~out~"
        " |> AI.SCRIPTRUN postproc probstolabel INPUTS ~out~ OUTPUTS label",
    )
    check(reply, [OK] * 5)
    assert values(introduced, "label") == [1]
