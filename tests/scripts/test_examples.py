"""Every example of the reference's pages on scripts, as printed: the commands in their order, and the printed results.

Where the reference is at odds with itself, the test follows what it means, and says so.
"""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor, nn

from testkit import models
from testkit.wire import Simple, Wire

ADDTWO = """\
def addtwo(tensors: List[Tensor], keys: List[str], args: List[str]):
    a = tensors[0]
    b = tensors[1]
    return a + b
"""
OLD_ADDTWO = """\
def addtwo(a, b):
    return a + b
"""
ADDN = """\
def addn(tensors: List[Tensor], keys: List[str], args: List[str]):
    return torch.stack(tensors).sum()
"""
OLD_ADDN = """\
def addn(a, args : List[Tensor]):
    return a + torch.stack(args).sum()
"""
# Printed: the helper is defined as redis_int_to_tensor and called as redis_string_int_to_tensor, and takes an int where
# GET answers a string.
INT_SET_GET = """\
def redis_string_int_to_tensor(redis_value: Any):
    return torch.tensor(int(str(redis_value)))

def int_set_get(tensors: List[Tensor], keys: List[str], args: List[str]):
    key = keys[0]
    value = args[0]
    redis.execute("SET", key, value)
    res = redis.execute("GET", key)
    return redis_string_int_to_tensor(res)
"""
MODEL_EXECUTE = """\
def test_model_execute(tensors: List[Tensor], keys: List[str], args: List[str]):
    a = torch.tensor([[2.0, 3.0], [2.0, 3.0]])
    b = torch.tensor([[2.0, 3.0], [2.0, 3.0]])
    return redisAI.model_execute(keys[0], [a, b], 1) # assume keys[0] is the model name stored in RedisAI.
"""
MULTIPLY = """\
def multiply(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] * tensors[1]
"""
PRE_PROCESS = """\
def pre_process(image):
    image = image.float()
    image /= 255
    return image
"""


def ok(wire: Wire, line: str, *more: str | bytes) -> None:
    reply = wire.ask(*line.split(), *more)
    assert (type(reply), reply) == (Simple, b"OK"), line


def test_introduction(wire: Wire) -> None:
    ok(wire, "AI.SCRIPTSTORE myscript CPU ENTRY_POINTS 1 multiply SOURCE", MULTIPLY)
    ok(wire, "AI.TENSORSET tA FLOAT 2 VALUES 2 3")
    ok(wire, "AI.TENSORSET tB FLOAT 2 VALUES 3 5")
    ok(wire, "AI.SCRIPTEXECUTE myscript multiply INPUTS 2 tA tB OUTPUTS 1 tScript")
    assert wire.ask("AI.TENSORGET", "tScript", "VALUES") == [b"6", b"15"]


def test_scriptstore_and_scriptexecute(wire: Wire) -> None:
    # Printed: AI.SCRIPTSET, which has no ENTRY_POINTS.
    ok(wire, "AI.SCRIPTSTORE myscript{tag} CPU TAG myscript:v0.1 ENTRY_POINTS 1 addtwo SOURCE", ADDTWO)
    ok(wire, "AI.TENSORSET mytensor1{tag} FLOAT 1 VALUES 40")
    ok(wire, "AI.TENSORSET mytensor2{tag} FLOAT 1 VALUES 2")
    ok(wire, "AI.SCRIPTEXECUTE myscript{tag} addtwo INPUTS 2 mytensor1{tag} mytensor2{tag} OUTPUTS 1 result{tag}")
    meta = [b"dtype", b"FLOAT", b"shape", [1], b"values", [b"42"]]
    assert wire.ask("AI.TENSORGET", "result{tag}", "META", "VALUES") == meta
    assert wire.ask("AI.TENSORGET", "result{tag}", "VALUES") == [b"42"]


def test_a_list_of_tensors(wire: Wire) -> None:
    ok(wire, "AI.SCRIPTSTORE myscript{tag} CPU ENTRY_POINTS 1 addn SOURCE", ADDN)
    for number, value in enumerate((40, 1, 1), 1):
        ok(wire, f"AI.TENSORSET mytensor{number}{{tag}} FLOAT 1 VALUES {value}")
    inputs = "mytensor1{tag} mytensor2{tag} mytensor3{tag}"
    ok(wire, f"AI.SCRIPTEXECUTE myscript{{tag}} addn INPUTS 3 {inputs} OUTPUTS 1 result{{tag}}")
    # Printed with the shape (1), but a sum has none.
    meta = [b"dtype", b"FLOAT", b"shape", [], b"values", [b"42"]]
    assert wire.ask("AI.TENSORGET", "result{tag}", "META", "VALUES") == meta


def test_redis_commands(wire: Wire) -> None:
    ok(wire, "AI.SCRIPTSTORE redis_scripts{1} CPU ENTRY_POINTS 1 int_set_get SOURCE", INT_SET_GET)
    ok(wire, "AI.SCRIPTEXECUTE redis_scripts{1} int_set_get KEYS 1 x{1} ARGS 1 3 OUTPUTS 1 y{1}")
    assert wire.ask("AI.TENSORGET", "y{1}", "VALUES") == [3]
    assert wire.ask("GET", "x{1}") == b"3"


@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])  # printed with a TensorFlow model
def test_models(wire: Wire, backend: str) -> None:
    blob = models.onnx_mul() if backend == "ONNX" else models.torch_module(Mul)
    ok(wire, f"AI.MODELSTORE tf_mul{{1}} {backend} CPU BLOB", blob)
    ok(wire, "AI.SCRIPTSTORE redis_scripts{1} CPU ENTRY_POINTS 1 test_model_execute SOURCE", MODEL_EXECUTE)
    ok(wire, "AI.SCRIPTEXECUTE redis_scripts{1} test_model_execute KEYS 1 tf_mul{1} OUTPUTS 1 y{1}")
    assert wire.ask("AI.TENSORGET", "y{1}", "VALUES") == [b"4", b"9", b"4", b"9"]


class Mul(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


def test_scriptset_and_scriptrun(wire: Wire) -> None:
    ok(wire, "AI.SCRIPTSET myscript CPU TAG myscript:v0.1 SOURCE", OLD_ADDTWO)
    ok(wire, "AI.TENSORSET mytensor1 FLOAT 1 VALUES 40")
    ok(wire, "AI.TENSORSET mytensor2 FLOAT 1 VALUES 2")
    ok(wire, "AI.SCRIPTRUN myscript addtwo INPUTS mytensor1 mytensor2 OUTPUTS result")
    meta = [b"dtype", b"FLOAT", b"shape", [1], b"values", [b"42"]]
    assert wire.ask("AI.TENSORGET", "result", "META", "VALUES") == meta


def test_variadic_arguments(wire: Wire) -> None:
    ok(wire, "AI.SCRIPTSET myscript CPU SOURCE", OLD_ADDN)
    for number, value in enumerate((40, 1, 1), 1):
        ok(wire, f"AI.TENSORSET mytensor{number} FLOAT 1 VALUES {value}")
    ok(wire, "AI.SCRIPTRUN myscript addn INPUTS mytensor1 $ mytensor2 mytensor3 OUTPUTS result")
    meta = [b"dtype", b"FLOAT", b"shape", [1], b"values", [b"42"]]
    assert wire.ask("AI.TENSORGET", "result", "META", "VALUES") == meta


def test_scriptget_scriptscan_and_scriptdel(wire: Wire) -> None:
    ok(wire, "AI.SCRIPTSTORE myscript CPU TAG myscript:v0.1 ENTRY_POINTS 1 addtwo SOURCE", ADDTWO)
    # Printed in another order, and with the source of the old convention.
    assert wire.ask("AI.SCRIPTGET", "myscript") == [
        b"device", b"CPU", b"tag", b"myscript:v0.1", b"Entry Points", [b"addtwo"], b"source", ADDTWO.encode(),
    ]  # fmt: skip
    assert wire.ask("AI._SCRIPTSCAN") == [[b"myscript", b"myscript:v0.1"]]
    ok(wire, "AI.SCRIPTDEL myscript")


def test_info(wire: Wire) -> None:
    ok(wire, "AI.SCRIPTSTORE myscript CPU ENTRY_POINTS 1 addtwo SOURCE", ADDTWO)
    ok(wire, "AI.TENSORSET a FLOAT 1 VALUES 1")
    ok(wire, "AI.SCRIPTEXECUTE myscript addtwo INPUTS 2 a a OUTPUTS 1 b")
    reply = wire.ask("AI.INFO", "myscript")
    found = dict(zip(reply[::2], reply[1::2], strict=True))
    assert found.pop(b"duration") > 0
    assert found == {
        b"key": b"myscript", b"type": b"SCRIPT", b"backend": b"TORCH", b"device": b"CPU", b"tag": b"",
        b"samples": -1, b"calls": 1, b"errors": 0,
    }  # fmt: skip
    ok(wire, "AI.INFO myscript RESETSTAT")


def test_the_scripts_of_the_walk_through(wire: Wire) -> None:
    """The image is an integer tensor as well as, on a second run, a float one, which must stay as it was."""
    ok(wire, "AI.SCRIPTSET script CPU SOURCE", PRE_PROCESS)
    pixels = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    ok(wire, "AI.TENSORSET image UINT8 3 3 3 BLOB", pixels.tobytes())
    ok(wire, "AI.TENSORSET floats FLOAT 3 3 3 BLOB", pixels.astype(np.float32).tobytes())
    for image in ("image", "floats"):
        ok(wire, f"AI.SCRIPTRUN script pre_process INPUTS {image} OUTPUTS normalized_image")
        found = np.frombuffer(wire.ask("AI.TENSORGET", "normalized_image", "BLOB"), np.float32)
        np.testing.assert_allclose(found, pixels.reshape(-1).astype(np.float32) / 255, rtol=1e-6)
    assert wire.ask("AI.TENSORGET", "image", "BLOB") == pixels.tobytes()
    assert wire.ask("AI.TENSORGET", "floats", "BLOB") == pixels.astype(np.float32).tobytes()
