"""AI.MODELSTORE and AI.MODELSET: every error text."""

from __future__ import annotations

import pytest
import torch

from testkit import models
from testkit.wire import Error, Wire, Word

BROKEN = b"not a model"

DEVICE = "ERR Invalid DEVICE"
NO_BLOB = "ERR Insufficient arguments, missing model BLOB"
EXPECTED_BLOB = "ERR Invalid argument, expected BLOB"
INPUT_COUNT = "ERR Invalid argument for input_count"
OUTPUT_COUNT = "ERR Invalid argument for output_count"
INPUTS_MISSING = "ERR number of model inputs does not match the number of given arguments"
OUTPUTS_MISSING = "ERR number of model outputs does not match the number of given arguments"

# What follows AI.MODELSTORE m, and the reply. Every one of them is found before the blob is looked at.
STORE = [
    ("FOO CPU BLOB b", "ERR unsupported backend"),
    ("TENSORFLOW CPU BLOB b", "ERR unsupported backend"),
    ("ONNX FOO BLOB b", DEVICE),
    ("ONNX CPU0 BLOB b", DEVICE),
    ("ONNX CPU: BLOB b", DEVICE),
    ("ONNX CPU:x BLOB b", DEVICE),
    ("ONNX CPU:-1 BLOB b", DEVICE),
    ("ONNX CPU:1x BLOB b", DEVICE),
    ("ONNX CPU:+1 BLOB b", DEVICE),
    ("ONNX CPU:1:2 BLOB b", DEVICE),
    ("ONNX CPU:123456 BLOB b", DEVICE),
    ("ONNX GPU:123456 BLOB b", DEVICE),
    ("ONNX GPU: BLOB b", DEVICE),
    ("TORCH GPUS BLOB b", DEVICE),
    ("TORCH XPU:0 BLOB b", DEVICE),
    ("ONNX CPU BATCHSIZE x BLOB b", "ERR Invalid argument for BATCHSIZE"),
    ("ONNX CPU BATCHSIZE -1 BLOB b", "ERR Invalid argument for BATCHSIZE"),
    ("ONNX CPU BATCHSIZE 1.5 BLOB b", "ERR Invalid argument for BATCHSIZE"),
    ("ONNX CPU BATCHSIZE BLOB b", "ERR Invalid argument for BATCHSIZE"),
    ("ONNX CPU BATCHSIZE 2 MINBATCHSIZE x BLOB b", "ERR Invalid argument for MINBATCHSIZE"),
    ("ONNX CPU BATCHSIZE 2 MINBATCHSIZE -1 BLOB b", "ERR Invalid argument for MINBATCHSIZE"),
    ("ONNX CPU BATCHSIZE 2 MINBATCHSIZE 2 MINBATCHTIMEOUT x BLOB b", "ERR Invalid argument for MINBATCHTIMEOUT"),
    ("ONNX CPU BATCHSIZE 2 MINBATCHSIZE 2 MINBATCHTIMEOUT -1 BLOB b", "ERR Invalid argument for MINBATCHTIMEOUT"),
    ("ONNX CPU MINBATCHSIZE 2 BLOB b", "ERR MINBATCHSIZE specified without BATCHSIZE"),
    ("ONNX CPU TAG t MINBATCHSIZE 2 BLOB b", "ERR MINBATCHSIZE specified without BATCHSIZE"),
    ("ONNX CPU BATCHSIZE 2 MINBATCHTIMEOUT 2 BLOB b", "ERR MINBATCHTIMEOUT specified without MINBATCHSIZE"),
    ("ONNX CPU TAG t FOO b", EXPECTED_BLOB),
    ("ONNX CPU FOO b", EXPECTED_BLOB),
    ("TF CPU INPUTS 1 a OUTPUTS 1 b FOO b", EXPECTED_BLOB),
    ("ONNX CPU TAG t", NO_BLOB),
    ("ONNX CPU TAG t BLOB", NO_BLOB),
    ("ONNX CPU BATCHSIZE 2", NO_BLOB),
    ("TF CPU INPUTS 1 a OUTPUTS 1 b", EXPECTED_BLOB),
    ("TF CPU INPUTS 1 a OUTPUTS 1 b BLOB", NO_BLOB),
    ("TF CPU BLOB b", "ERR INPUTS not specified for TF"),
    ("TF CPU TAG t BLOB b", "ERR INPUTS not specified for TF"),
    ("TF CPU OUTPUTS 1 a BLOB b", "ERR INPUTS not specified for TF"),
    ("TF CPU INPUTS 1 a BLOB b", "ERR OUTPUTS not specified for TF"),
    ("TF CPU INPUTS x a OUTPUTS 1 b BLOB b", INPUT_COUNT),
    ("TF CPU INPUTS 0 OUTPUTS 1 b BLOB b", INPUT_COUNT),
    ("TF CPU INPUTS -1 a OUTPUTS 1 b BLOB b", INPUT_COUNT),
    ("TF CPU INPUTS 1 a OUTPUTS x b BLOB b", OUTPUT_COUNT),
    ("TF CPU INPUTS 1 a OUTPUTS 0 BLOB b", OUTPUT_COUNT),
    ("TF CPU INPUTS 1 a OUTPUTS -1 b BLOB b", OUTPUT_COUNT),
    ("TF CPU INPUTS 50 a OUTPUTS 1 b BLOB b", INPUTS_MISSING),
    ("TF CPU INPUTS 9223372036854775807 a OUTPUTS 1 b BLOB b", INPUTS_MISSING),
    ("TF CPU INPUTS 1 a OUTPUTS 50 b BLOB b", OUTPUTS_MISSING),
    ("TF CPU INPUTS 1 a OUTPUTS 9223372036854775807 b BLOB b", OUTPUTS_MISSING),
    ("ONNX CPU INPUTS 1 a OUTPUTS 1 b BLOB b", "ERR INPUTS argument should not be specified for this backend"),
    ("TORCH CPU INPUTS 1 a OUTPUTS 1 b BLOB b", "ERR INPUTS argument should not be specified for this backend"),
    ("TFLITE CPU INPUTS 1 a OUTPUTS 1 b BLOB b", "ERR INPUTS argument should not be specified for this backend"),
]  # fmt: skip

# The same for AI.MODELSET m, whose INPUTS and OUTPUTS have no counts.
OTHER_IN_SET = ("INPUTS", "OUTPUTS", "FOO", "TF CPU", "CPU:", "CPU0", "GPU", "XPU")
SET = [row for row in STORE if not any(word in row[0] for word in OTHER_IN_SET)] + [
    ("FOO CPU BLOB b", "ERR unsupported backend"),
    ("ONNX FOO BLOB b", "ERR unsupported device"),
    ("TORCH GPUS BLOB b", "ERR unsupported device"),
    ("TORCH XPU:0 BLOB b", "ERR unsupported device"),
    ("ONNX CPU FOO b", NO_BLOB),
    ("TF CPU TAG t BLOB b", "ERR Insufficient arguments, INPUTS and OUTPUTS not specified"),
    ("TF CPU OUTPUTS a BLOB b", "ERR INPUTS not specified"),
    ("TF CPU INPUTS a BLOB b", "ERR OUTPUTS not specified"),
    ("TF CPU INPUTS a OUTPUTS b", NO_BLOB),
    ("TF CPU INPUTS a OUTPUTS b BLOB", NO_BLOB),
    ("ONNX CPU INPUTS OUTPUTS BLOB", NO_BLOB),
    ("TFLITE CPU BATCHSIZE 2 BLOB b", "ERR Auto-batching not supported by the TFLITE backend"),
]


@pytest.mark.parametrize(
    ("command", "line", "text"),
    [("AI.MODELSTORE", *row) for row in STORE] + [("AI.MODELSET", *row) for row in SET],
)
def test_text(wire: Wire, command: str, line: str, text: str) -> None:
    assert wire.ask(command, "m", *line.split()) == text
    assert wire.ask("EXISTS", "m") == 0
    assert wire.ask("PING") == b"PONG", "one reply to one command"


@pytest.mark.parametrize("device", ["", b"CPU\0", " CPU"])
def test_odd_devices(wire: Wire, device: Word) -> None:
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", device, "BLOB", BROKEN) == DEVICE
    assert isinstance(wire.ask("AI.MODELSET", "m", "ONNX", device, "BLOB", BROKEN), Error)


@pytest.mark.parametrize("command", ["AI.MODELSTORE", "AI.MODELSET", "AI.MODELGET", "AI.MODELDEL"])
def test_too_few_words(wire: Wire, command: str) -> None:
    assert wire.ask(command) == f"ERR wrong number of arguments for '{command}' command"


@pytest.mark.parametrize("words", [["AI.MODELDEL", "m", "x"], ["AI._MODELSCAN", "x"]])
def test_too_many_words(wire: Wire, words: list[str]) -> None:
    assert wire.ask(*words) == f"ERR wrong number of arguments for '{words[0]}' command"


@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
@pytest.mark.parametrize(
    "blob", [BROKEN, b"", b"\0" * 100, b"line\nbreak\r\n" * 20], ids=["text", "empty", "zeros", "lines"]
)
def test_a_broken_blob_gives_the_message_of_the_library_on_one_line(wire: Wire, backend: str, blob: bytes) -> None:
    reply = wire.ask("AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob)
    empty = backend == "ONNX" and not blob
    text = "ERR No graph was found in the protobuf." if empty else models.UNREADABLE[backend]
    assert isinstance(reply, Error) and reply.startswith(text)
    assert "\n" not in reply
    assert wire.ask("EXISTS", "m") == 0
    assert wire.ask("PING") == b"PONG"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["GPU", "gpu", "GPU:0", "GPU:7"])
@pytest.mark.parametrize(("backend", "library"), [("ONNX", "ONNX"), ("TORCH", "Torch")])
def test_no_gpu(wire: Wire, backend: str, library: str, device: str) -> None:
    blob = models.onnx_add() if backend == "ONNX" else models.torch_module(models.Add)
    reply = wire.ask("AI.MODELSTORE", "m", backend, device, "BLOB", blob)
    assert reply == f"ERR GPU requested but {library} couldn't find CUDA"
    assert wire.ask("EXISTS", "m") == 0
