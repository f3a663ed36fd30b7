"""Files that are no model of the backend that they are stored for: the error says what they are, and what to do."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
import torch

from testkit import models, tf_models
from testkit.wire import Error, Wire, Word

# How each backend begins its refusal of bytes that it cannot read.
BEGINNING = {
    "ONNX": "ERR Failed to load model because protobuf parsing failed. This is ",
    "TORCH": "ERR the model is no TorchScript archive: this is ",
    "TF": "ERR Invalid GraphDef: this is ",
    "TFLITE": "ERR Failed to load model from buffer: this is ",
}


def store(wire: Wire, backend: str, blob: bytes) -> object:
    names: Sequence[Word] = ("INPUTS", 1, "x", "OUTPUTS", 1, "y") if backend == "TF" else ()
    reply = wire.ask("AI.MODELSTORE", "m", backend, "CPU", *names, "BLOB", blob)
    assert wire.ask("EXISTS", "m") == (reply == b"OK")
    return reply


def torch_saved(value: object, **how: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def exported() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), file)
    return file.getvalue()


def keras_file(suffix: str) -> Callable[[Path], bytes]:
    def make(folder: Path) -> bytes:
        path = folder / f"network{suffix}"
        tf_models.keras_network().save(path)
        return path.read_bytes()

    return make


def saved_model(folder: Path) -> bytes:
    tf_models.keras_network().export(folder / "saved", verbose=False)
    return (folder / "saved" / "saved_model.pb").read_bytes()


def tar(_: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        made.addfile(tarfile.TarInfo("model.pt"))
    return file.getvalue()


def other_zip(_: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("folder/model.onnx", models.onnx_add())
    return file.getvalue()


def graph_as_text(_: Path) -> bytes:
    graph = tf_models.tensorflow().Graph()
    with graph.as_default():
        tf_models.placeholder()
    return str(graph.as_graph_def()).encode()


NETWORK = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
SCRIPT = r"; save the model: torch\.jit\.script\(model\)\.save\(path\)$"
KERAS = r'; keras\.models\.load_model\(path\)\.export\(path, format="onnx"\) makes a file for ONNX$'
FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "module": (lambda _: torch_saved(NETWORK), r"a whole module of torch\.save; torch\.load.*" + SCRIPT),
    "state": (lambda _: torch_saved(NETWORK.state_dict()), r"a state_dict of torch\.save; load_state_dict.*" + SCRIPT),
    "legacy": (
        lambda _: torch_saved(NETWORK.state_dict(), _use_new_zipfile_serialization=False),
        r"a pickle of torch\.save; .*" + SCRIPT,
    ),
    "pt2": (
        lambda _: exported(),
        r"an archive of torch\.export \(\.pt2\)(?=.*ONNX$); save the model: torch\.jit\.script",
    ),
    "keras": (keras_file(".keras"), r"a Keras file \(\.keras\)" + KERAS),
    "h5": (keras_file(".h5"), r"an HDF5 file, as Keras saves models \(\.h5\)" + KERAS),
    "saved model": (saved_model, "the saved_model.pb of a SavedModel.* convert_variables_to_constants_v2"),
    "pickle": (lambda _: pickle.dumps({"weights": [1.0]}), "a Python pickle; .* skl2onnx does that"),
    "gzip": (lambda _: gzip.compress(models.onnx_add()), "a gzip file; send what is in it"),
    "tar": (tar, "a tar file; send the model that is in it"),
    "zip": (other_zip, "a zip archive; send the model that is in it"),
    "text": (graph_as_text, r"a graph as text; write it with as_graph_def\(\)\.SerializeToString\(\)"),
    "lfs": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a pointer of Git LFS"),
    "path": (lambda _: b"/home/me/My models/network.pt", "the path of a file, not what is in it; .* BLOB < FILE"),
    "relative path": (lambda _: "modèles/réseau.onnx\n".encode(), "the path of a file"),
}


@pytest.mark.parametrize("backend", BEGINNING)
@pytest.mark.parametrize("file", FILES)
def test_it_is_recognised(wire: Wire, tmp_path: Path, file: str, backend: str) -> None:
    make, explanation = FILES[file]
    reply = store(wire, backend, make(tmp_path))
    beginning = BEGINNING[backend]
    if file == "saved model" and backend == "ONNX":  # which the library can parse
        beginning = "ERR No graph was found in the protobuf. This is "
    assert isinstance(reply, Error) and reply.startswith(beginning), reply
    assert re.match(explanation, reply.removeprefix(beginning)), reply


MODELS: dict[str, Callable[[], bytes]] = {
    "ONNX": models.onnx_add,
    "TORCH": lambda: models.torch_module(models.Add),
    "TF": tf_models.tf_identity,
    "TFLITE": tf_models.tflite_two,
}


@pytest.mark.parametrize("stored_as", MODELS)
@pytest.mark.parametrize("backend", MODELS)
def test_a_model_of_another_backend(wire: Wire, backend: str, stored_as: str) -> None:
    reply = store(wire, stored_as, MODELS[backend]())
    if backend == stored_as:
        assert reply == b"OK"
    else:
        found = f"his is a{'n' * (backend == 'ONNX')} {backend} file, stored as {stored_as}"
        assert isinstance(reply, Error) and reply.endswith(found)


@pytest.mark.parametrize("backend", BEGINNING)
@pytest.mark.parametrize(
    "blob",
    [
        b"no path",
        b"PK",
        b"PK\3\4" + b"PK\1\2" * 100_000,
        b"\x80\4",
        b"{}",
        b"\x12\0" * 1000,
        b"\n\0",
        b"\n\4\n\0\x12\0",
        b"\n\x08\n\0\x10" + b"\xff" * 4 + b"\x7f",
    ],
)
def test_others_get_the_words_of_the_library(wire: Wire, backend: str, blob: bytes) -> None:
    reply = store(wire, backend, blob)
    assert isinstance(reply, Error)
    assert "this is" not in reply.lower() or reply.endswith("is a zip archive; send the model that is in it"), reply


def test_errors_of_readable_models_stay_as_they_are(wire: Wire) -> None:
    reply = store(wire, "TF", tf_models.tf_mul())
    assert reply == 'ERR Input node named "x" not found in TF graph.'


def test_onnx_with_its_weights_in_another_file(wire: Wire, tmp_path: Path) -> None:
    """What the error advises makes a model that can be stored."""
    model = onnx.load_from_string(models.onnx_line(2, 1))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=0)
    reply = store(wire, "ONNX", path.read_bytes())
    assert isinstance(reply, Error) and "ALLOW_FILE_OPS" not in reply
    assert reply.startswith("ERR the model keeps tensors in other files (external data), not in the blob: ")
    assert reply.endswith("external_data=False, or write it anew as one file: onnx.save(onnx.load(path), path)")
    onnx.save(onnx.load(path), path)
    assert store(wire, "ONNX", path.read_bytes()) == b"OK"
