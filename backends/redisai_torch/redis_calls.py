"""`redis` and `redisAI` of scripts: operators that call Redis, with TorchScript functions around them. Workers enter.

Owns the right to call: a thread has it while it runs a script. Where C++ runs the script, it has operators of its own
(runner.cpp). They call those of this file for models that Python has to run, and to tell what Redis has refused.

TorchScript's strings hold any bytes, but the library decodes them on their way to Python. So printable ASCII text is
passed as strings, and all else as numbers. On the way back, Python may return bytes. A reply is passed flat: the kinds
of its parts in order, and a list of values for each type. TorchScript code rebuilds it, because only TorchScript can
make lists of mixed types.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from redisai.protocol import Array, Redis, Reply, one_line, refusal

from . import byte_strings, runner
from .sandbox import Namespace
from .tensors import to_array, to_tensor

CALL = f"{runner.NAMESPACE}::call"
RUN_MODEL = f"{runner.NAMESPACE}::run_model"
# Like RUN_MODEL, but the library believes its schema, which declares no writes. For analysis only.
RUN_MODEL_PURE = "redisai::run_model_pure"

_NULL, _TEXT, _INTEGER, _ARRAY = range(4)

# _call takes all words as strings in `words`, or all as numbers in `numbers`. The other list is empty.
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
    kinds, counts, integers, texts = _call(words, numbers)
    reply: List[Any] = []
    items = reply
    outer: List[List[Any]] = []
    missing: List[int] = []
    count, integer, text = 0, 0, 0
    for kind in kinds:
        if kind == {_TEXT}:
            items.append(texts[text])
            text += 1
        elif kind == {_INTEGER}:
            items.append(integers[integer])
            integer += 1
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


FUNCTIONS = ("execute", "asList", "model_execute", *byte_strings.FUNCTIONS)


class _Current(threading.local):
    redis: Redis | None = None
    error: str = ""  # of the last call that failed; the library hides it in a traceback


current = _Current()
Flat = tuple[list[int], list[int], list[int], list[bytes]]


# Of an op's address. Set when a script is loaded, always to the same.
redis_of: Callable[[int], Redis] | None = None


def _redis() -> Redis:
    if current.redis is not None:
        return current.redis
    op = runner.take_asking()
    if not op or redis_of is None:
        raise RuntimeError("only scripts can call Redis, from the thread they run in")
    return redis_of(op)


def _call(words: list[str], numbers: list[list[int]]) -> Flat:
    redis = _redis()
    try:
        flat: Flat = ([], [], [], [])
        _flatten(redis.call([word.encode() for word in words] or [bytes(word) for word in numbers]), flat)
        return flat
    except BaseException as error:
        current.error = one_line(error)
        raise


def _flatten(reply: Reply, flat: Flat) -> None:
    kinds, counts, integers, texts = flat
    if reply is None:
        kinds.append(_NULL)
    elif isinstance(reply, bytes):
        kinds.append(_TEXT)
        texts.append(reply)
    elif isinstance(reply, int):
        kinds.append(_INTEGER)
        integers.append(reply)
    else:
        kinds.append(_ARRAY)
        counts.append(len(reply))
        for item in reply:
            _flatten(item, flat)


def _refused(text: list[int]) -> None:
    """Redis has answered the call of a script that C++ runs with this error."""
    _redis()
    error = refusal(bytes(text))
    current.error = one_line(error)
    raise error


def _run_model(
    key: str, numbers: list[list[int]], inputs: list[torch.Tensor], outputs: int, failure: Sequence[int] = ()
) -> list[torch.Tensor]:
    """failure: the library's text about the model's run in C."""
    redis, before = _redis(), current.redis
    try:
        arrays = [to_array(index, tensor) for index, tensor in enumerate(inputs)]
        current.redis = None  # a model must not call Redis, even if its blob names these operators
        try:
            name = bytes(numbers[0]) if numbers else key.encode()
            results = redis.run_model(name, arrays, outputs, bytes(failure).decode(errors="replace"))
        finally:
            current.redis = before
        device = inputs[0].device if inputs else None
        return [_output(index, array, device) for index, array in enumerate(results)]
    except BaseException as error:
        current.error = one_line(error)
        raise


def _output(index: int, array: Array, device: torch.device | None) -> torch.Tensor:
    """An output as a tensor, copied: a script may write to it, and it may be an input or a weight of the model."""
    if array.dtype.kind in "OSU":
        raise TypeError(f"redisAI.model_execute: output {index} of the model is no tensor of numbers: {array.dtype}")
    tensor: torch.Tensor = to_tensor(np.array(array, order="C"), device, False)
    return tensor


_library: Any = torch.library.Library("redisai", "DEF")  # type: ignore[no-untyped-call]
# CONSERVATIVE: the compiler keeps a call whose result is not used.
for _name, _schema, _kernel in (
    ("call", "(str[] words, int[][] numbers) -> (int[], int[], int[], str[])", _call),
    ("run_model", "(str key, int[][] numbers, Tensor[] inputs, int outputs) -> Tensor[]", _run_model),
    (
        "run_failed_model",
        "(str key, int[][] numbers, Tensor[] inputs, int outputs, int[] failure) -> Tensor[]",
        _run_model,
    ),
    ("refused", "(int[] text) -> ()", _refused),
):
    _library.define(_name + _schema, alias_analysis="CONSERVATIVE")
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
_library.define("run_model_pure(str key, int[][] numbers, Tensor[] inputs, int outputs) -> Tensor[]")


@functools.cache
def namespaces() -> dict[str, Namespace]:
    """The names that scripts know besides those of the library."""
    operators: Any = getattr(torch.ops, runner.NAMESPACE)
    names = {"_call": operators.call, "_run_model": operators.run_model, **byte_strings.NAMES}
    unit: Any = torch.jit.CompilationUnit()
    unit.define(SOURCE + byte_strings.SOURCE, names.get)
    ours = {name: getattr(unit, name) for name in ("model_execute", *byte_strings.FUNCTIONS)}
    return {
        "redis": Namespace("redis", {"execute": unit.execute, "asList": unit.asList}),
        "redisAI": Namespace("redisAI", ours),
    }
