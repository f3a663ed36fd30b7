"""What a database may hold, for tests of saving, restarting and replicating; how it is written, run and read.

Servers' replies are compared with these values and their saved layouts (rdb.py), in which the module has no part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from testkit import models, rdb
from testkit.dtypes import DTYPES, NUMBERS
from testkit.values import Model, Script, Tensor, Value
from testkit.wire import Wire, Word

# Two elements of each of ten dtypes. tests/commands/test_dtypes.py covers all of them.
ELEMENTS = {
    "FLOAT": np.array([1.5, -2], "<f4").tobytes(),
    "DOUBLE": np.array([1.5, -2], "<f8").tobytes(),
    "INT8": np.array([-128, 127], "i1").tobytes(),
    "INT16": np.array([-5, 6], "<i2").tobytes(),
    "INT32": np.array([-5, 6], "<i4").tobytes(),
    "INT64": np.array([-5, 2**62], "<i8").tobytes(),
    "UINT8": b"\x00\xff",
    "UINT16": np.array([0, 65535], "<u2").tobytes(),
    "BOOL": b"\x00\x01",
    "STRING": "ein W\u00f6rt\0\0".encode(),
}

ANY_BYTES = (b"a\0b", b"", b"\0", b"\xff\0\0")

TENSORS = {
    **{name: Tensor(name, (2, 3), (np.arange(6) * 3 + 1).astype(DTYPES[name].numpy).tobytes()) for name in NUMBERS},
    "BOOL": Tensor("BOOL", (3, 1), b"\1\0\1"),
    "STRING": Tensor("STRING", (2, 2), "one\0\0drei\0vi\u0113r\0".encode()),
    "any bytes": Tensor("STRING", (2, 2), b"".join(element + b"\0" for element in ANY_BYTES), ANY_BYTES),
    "one element": Tensor("DOUBLE", (1,), np.float64(0.1).tobytes()),
    "eight dimensions": Tensor("INT16", (1, 2, 1, 3, 1, 2, 1, 1), np.arange(12, dtype="<i2").tobytes()),
    # Redis saves a short string of digits as a number, and a long dull one compressed
    "digits": Tensor("UINT8", (5,), b"12345"),
    "dull": Tensor("INT32", (500, 2), bytes(4000)),
    "large": Tensor("FLOAT", (300, 100), np.random.default_rng(3).random(30000, dtype=np.float32).tobytes()),
}

ONNX = Model("ONNX", models.onnx_add(), tag="v1:add", inputs=("a", "b"), outputs=("sum",))
TORCH = Model("TORCH", models.torch_module(models.Add), inputs=("a", "b"), outputs=("",))
BATCHED = Model("ONNX", models.onnx_add(), "cpu", "", 8, 2, minbatchtimeout=10, inputs=("a", "b"), outputs=("sum",))
TF = Model("TF", bytes(range(256)) * 5, "CPU:1", "fraud", 32, 4, 20, ("transaction", "reference"), ("output",))
TFLITE = Model("TFLITE", b"\x1c\0\0\0TFL3" + bytes(90), tag="lite")
MODELS = {"onnx": ONNX, "torch": TORCH, "batched": BATCHED, "tf": TF, "tflite": TFLITE}

# These add two FLOAT matrices of n x 2. What the others' libraries are not there for is kept, and only kept.
RUNNABLE = ("onnx", "torch", "batched")

SOURCE = """
def add(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] + tensors[1]

def double(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] * 2
"""
SCRIPTS = {
    "script": Script(SOURCE, tag="v1:math", entry_points=("add", "double")),
    "old script": Script("def add(a, b):\n    return a + b\n", device="CPU:1"),
}


def model_meta(model: Model) -> list[Any]:
    """The answer to AI.MODELGET META."""
    return [
        b"backend",
        model.backend.encode(),
        b"device",
        model.device.encode(),
        b"tag",
        model.tag.encode(),
        b"batchsize",
        model.batchsize,
        b"minbatchsize",
        model.minbatchsize,
        b"inputs",
        [name.encode() for name in model.inputs],
        b"outputs",
        [name.encode() for name in model.outputs],
        b"minbatchtimeout",
        model.minbatchtimeout,
    ]


def data_words(tensor: Tensor) -> tuple[Word, ...]:
    """The words of AI.TENSORSET after the shape."""
    return ("RAW", *tensor.elements) if tensor.elements else ("BLOB", tensor.data)


def get_words(tensor: Tensor) -> tuple[str, str]:
    """The words of AI.TENSORGET after the key for which it answers tensor_reply()."""
    return "META", "RAW" if tensor.elements else "BLOB"


def tensor_reply(tensor: Tensor) -> list[Any]:
    data = [b"values", list(tensor.elements)] if tensor.elements else [b"blob", tensor.data]
    return [b"dtype", tensor.dtype.encode(), b"shape", list(tensor.shape), *data]


def store_tensor(wire: Wire, key: str, tensor: Tensor) -> None:
    assert wire.ask("AI.TENSORSET", key, tensor.dtype, *tensor.shape, *data_words(tensor)) == b"OK"


def restore(wire: Wire, key: str, value: Value, version: int = 4) -> None:
    assert wire.ask("RESTORE", key, 0, rdb.dump(value, version)) == b"OK"


def fill(wire: Wire) -> None:
    """One key of every kind, and what runs of the models leave."""
    for name, tensor in TENSORS.items():
        store_tensor(wire, name, tensor)
    for name, model in MODELS.items():
        if name in RUNNABLE:
            assert wire.ask(*model.words(name)) == b"OK"
        else:
            restore(wire, name, model)
    for name, script in SCRIPTS.items():
        restore(wire, name, script)
    run_all(wire)
    # odd outputs: of rank 0, without elements, and with any bytes
    assert wire.ask("AI.TENSORSET", "ramp", "FLOAT", 3, "VALUES", 1, 2, 4) == b"OK"
    assert wire.ask("AI.TENSORSET", "nothing", "FLOAT", 3) == b"OK"
    assert wire.ask("AI.MODELSTORE", "total", "ONNX", "CPU", "BLOB", models.onnx_total()) == b"OK"
    assert wire.ask("AI.MODELSTORE", "nonzero", "ONNX", "CPU", "BLOB", models.onnx_nonzero()) == b"OK"
    assert wire.ask("AI.MODELEXECUTE", "total", "INPUTS", 1, "ramp", "OUTPUTS", 1, "rank 0") == b"OK"
    assert wire.ask("AI.MODELEXECUTE", "nonzero", "INPUTS", 1, "nothing", "OUTPUTS", 1, "empty") == b"OK"
    assert wire.ask("AI.MODELSTORE", "same", "ONNX", "CPU", "BLOB", models.onnx_identity("STRING", ("n", "m"))) == b"OK"
    assert wire.ask("AI.MODELEXECUTE", "same", "INPUTS", 1, "any bytes", "OUTPUTS", 1, "any bytes out") == b"OK"
    check_odd_outputs(wire)


def check_odd_outputs(wire: Wire) -> None:
    rank0 = [b"dtype", b"FLOAT", b"shape", [], b"blob", np.float32(7).tobytes()]
    assert wire.ask("AI.TENSORGET", "rank 0", "META", "BLOB") == rank0
    assert wire.ask("AI.TENSORGET", "empty", "META", "BLOB") == [b"dtype", b"INT64", b"shape", [1, 0], b"blob", b""]
    assert wire.ask("AI.TENSORGET", "any bytes out", "META", "RAW") == tensor_reply(TENSORS["any bytes"])


def check_run(wire: Wire, key: str, output: str = "sum") -> None:
    """Runs a model that adds, and checks the sum."""
    left = np.array([[1, 2], [3, 4]], np.float32)
    right = np.array([[0.5, 1], [-3, 1e6]], np.float32)
    store_tensor(wire, "left", Tensor("FLOAT", (2, 2), left.tobytes()))
    store_tensor(wire, "right", Tensor("FLOAT", (2, 2), right.tobytes()))
    assert wire.ask("AI.MODELEXECUTE", key, "INPUTS", 2, "left", "right", "OUTPUTS", 1, output) == b"OK"
    expected = Tensor("FLOAT", (2, 2), (left + right).tobytes())
    assert wire.ask("AI.TENSORGET", output, "META", "BLOB") == tensor_reply(expected)


def run_all(wire: Wire) -> None:
    for name in RUNNABLE:
        check_run(wire, name, f"sum of {name}")


# A backend that adds, without its load().
ADDING_BACKEND = """
class Session:
    inputs = outputs = None

    def run(self, inputs):
        return [inputs[0] + inputs[1]]

def version():
    return "1"
"""
SLOW_BACKEND = (
    """
import time
import contextlib
from pathlib import Path

while not Path({go!r}).exists():
    time.sleep(0.01)
"""
    + ADDING_BACKEND
    + """
def load(definition, settings):
    return Session()
"""
)


def slow_backend(folder: Path) -> tuple[Path, Path]:
    """A backends path whose ONNX takes until the second path exists to import, and then adds."""
    go = folder / "go"
    backend = folder / "slow" / "redisai_onnxruntime" / "redisai_onnxruntime.py"
    backend.parent.mkdir(parents=True)
    backend.write_text(SLOW_BACKEND.format(go=str(go)))
    return folder / "slow", go


def contents_of(wire: Wire, key: str | bytes) -> tuple[bytes, Any, bytes]:
    """Everything that can be read of a key, so that it can be compared."""
    kind = bytes(wire.ask("TYPE", key))
    if kind == b"AI_TENSOR":
        content = wire.ask("AI.TENSORGET", key, "META", "RAW")
    elif kind == b"AI__MODEL":
        content = wire.ask("AI.MODELGET", key, "META", "BLOB")
    else:
        content = rdb.decode(wire.ask("DUMP", key))
    return kind, content, bytes(wire.ask("DEBUG", "DIGEST-VALUE", key)[0])


def contents(wire: Wire) -> dict[bytes, Any]:
    return {key: contents_of(wire, key) for key in sorted(wire.ask("KEYS", "*"))}


def check_filled(wire: Wire, before: dict[bytes, Any]) -> None:
    """The database is as fill() left it, its models run, and it is compared with contents() of before."""
    run_all(wire)
    check_odd_outputs(wire)
    after = contents(wire)
    assert after.keys() == before.keys()
    for key, content in before.items():
        assert after[key] == content, key
    for name, tensor in TENSORS.items():
        assert wire.ask("AI.TENSORGET", name, *get_words(tensor)) == tensor_reply(tensor)
    for name, model in MODELS.items():
        assert wire.ask("AI.MODELGET", name, "META", "BLOB") == [*model_meta(model), b"blob", model.blob]
    for name, script in SCRIPTS.items():
        decoded = rdb.decode(wire.ask("DUMP", name))
        assert decoded == rdb.Decoded(rdb.SCRIPT_TYPE, 4, rdb.script_fields(script, 4))
