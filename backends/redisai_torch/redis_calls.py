"""`redis` and `redisAI` of scripts: operators that call Redis, and TorchScript around them. Workers enter.

Owns who may call: the thread that runs a script, for as long as it runs it.

TorchScript's strings hold any bytes, but the library hands them to Python decoded. So text goes as it is, and what is
not plain ASCII goes as numbers; results may come from Python as bytes. A reply comes flat, as its kinds in order and
the values of each type, and is put together here: only TorchScript can make lists of mixed types.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np
import torch

from redisai.protocol import Array, Redis, Reply, one_line

from .sandbox import Namespace
from .tensors import to_array, to_tensor

CALL = "redisai::call"
RUN_MODEL = "redisai::run_model"
# Like RUN_MODEL, but the compiler takes the schema's word that nothing is written to: for analysis only.
RUN_MODEL_PURE = "redisai::run_model_pure"

_NULL, _TEXT, _INTEGER, _DOUBLE, _ARRAY = range(5)

# `words` hold the plain ones, or nothing where all are in `numbers`.
SOURCE = f"""
def _is_plain(word: str) -> bool:
    return word.isprintable() or "".join(word.split()).isprintable()

def _numbers(words: List[str]) -> List[List[int]]:
    plain = True
    for word in words:
        plain = plain and _is_plain(word)
    numbers: List[List[int]] = []
    if not plain:
        for word in words:
            numbers.append([ord(char) for char in list(word)])
    return numbers

def execute(command: str, args: List[str] = []) -> Any:
    words = [command]
    words.extend(args)
    numbers = _numbers(words)
    if len(numbers) > 0:
        words.clear()
    kinds, counts, integers, doubles, texts = _call(words, numbers)
    reply: List[Any] = []
    items = reply
    outer: List[List[Any]] = []
    missing: List[int] = []
    count, integer, double, text = 0, 0, 0, 0
    for kind in kinds:
        if kind == {_TEXT}:
            items.append(texts[text])
            text += 1
        elif kind == {_INTEGER}:
            items.append(integers[integer])
            integer += 1
        elif kind == {_DOUBLE}:
            items.append(doubles[double])
            double += 1
        elif kind == {_ARRAY}:
            array: List[Any] = []
            items.append(array)
            outer.append(items)
            items = array
            missing.append(counts[count])
            count += 1
        else:
            items.append(None)
        while len(missing) > 0 and len(items) == missing[-1]:
            items = outer.pop()
            missing.pop()
    return reply[0]

def asList(reply: Any) -> List[Any]:
    assert isinstance(reply, List[Any]), "redis.asList: the reply is no array"
    return reply

def model_execute(key: str, inputs: List[Tensor], outputs: int) -> List[Tensor]:
    numbers = _numbers([key])
    return _run_model("" if len(numbers) > 0 else key, numbers, inputs, outputs)
"""


FUNCTIONS = ("execute", "asList", "model_execute")


class _Current(threading.local):
    redis: Redis | None = None
    error: str = ""  # of the last call: the library wraps what an operator raises into a traceback


current = _Current()
Flat = tuple[list[int], list[int], list[int], list[float], list[bytes]]


def _redis() -> Redis:
    if current.redis is None:
        raise RuntimeError("only scripts can call Redis, from the thread they run in")
    return current.redis


def _call(words: list[str], numbers: list[list[int]]) -> Flat:
    try:
        flat: Flat = ([], [], [], [], [])
        _flatten(_redis().call([word.encode() for word in words] or [bytes(word) for word in numbers]), flat)
        return flat
    except BaseException as error:
        current.error = one_line(error)
        raise


def _flatten(reply: Reply, flat: Flat) -> None:
    kinds, counts, integers, doubles, texts = flat
    if reply is None:
        kinds.append(_NULL)
    elif isinstance(reply, bytes):
        kinds.append(_TEXT)
        texts.append(reply)
    elif isinstance(reply, int):
        kinds.append(_INTEGER)
        integers.append(reply)
    elif isinstance(reply, float):
        kinds.append(_DOUBLE)
        doubles.append(reply)
    else:
        kinds.append(_ARRAY)
        counts.append(len(reply))
        for item in reply:
            _flatten(item, flat)


def _run_model(key: str, numbers: list[list[int]], inputs: list[torch.Tensor], outputs: int) -> list[torch.Tensor]:
    try:
        redis = _redis()
        arrays = [to_array(index, tensor) for index, tensor in enumerate(inputs)]
        current.redis = None  # a model may not call Redis, whatever operators its blob names
        try:
            results = redis.run_model(bytes(numbers[0]) if numbers else key.encode(), arrays, outputs)
        finally:
            current.redis = redis
        device = inputs[0].device if inputs else None
        return [_output(index, array, device) for index, array in enumerate(results)]
    except BaseException as error:
        current.error = one_line(error)
        raise


def _output(index: int, array: Array | None, device: torch.device | None) -> torch.Tensor:
    """A copy: a script may write to what it got, and a model may have returned its inputs or its weights."""
    if array is None or array.dtype.kind in "OSU":
        kind = "nothing" if array is None else array.dtype
        raise TypeError(f"redisAI.model_execute: output {index} of the model is no tensor of numbers: {kind}")
    tensor: torch.Tensor = to_tensor(np.array(array, order="C"), device, False)
    return tensor


_library: Any = torch.library.Library("redisai", "DEF")  # type: ignore[no-untyped-call]
# CONSERVATIVE: a call whose result nobody uses is made all the same.
for _name, _schema, _kernel in (
    ("call", "(str[] words, int[][] numbers) -> (int[], int[], int[], float[], str[])", _call),
    ("run_model", "(str key, int[][] numbers, Tensor[] inputs, int outputs) -> Tensor[]", _run_model),
):
    _library.define(_name + _schema, alias_analysis="CONSERVATIVE")
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
_library.define("run_model_pure(str key, int[][] numbers, Tensor[] inputs, int outputs) -> Tensor[]")


@functools.cache
def namespaces() -> dict[str, Namespace]:
    """What scripts know beside the library."""
    names = {"_call": torch.ops.redisai.call, "_run_model": torch.ops.redisai.run_model}
    unit: Any = torch.jit.CompilationUnit()
    unit.define(SOURCE, names.get)
    return {
        "redis": Namespace("redis", {"execute": unit.execute, "asList": unit.asList}),
        "redisAI": Namespace("redisAI", {"model_execute": unit.model_execute}),
    }
