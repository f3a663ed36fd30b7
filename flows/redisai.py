"""The module `redisAI`, which flows import: tensors, runs of models and of scripts, DAGs.

Tensors are values of this process. What runs in the server is one command each time: a DAG that sets the inputs, runs
the model and returns the outputs, so it needs no keys. Any thread may enter; runners belong to one flow.
"""

from __future__ import annotations

import asyncio
import math
import operator
import struct
import time
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

Word: TypeAlias = str | bytes | int | float
Key: TypeAlias = str | bytes
Call: TypeAlias = Callable[..., Any]  # of words; returns the reply, or raises with the server's text
CallAsync: TypeAlias = Callable[..., Awaitable[Any]]
T = TypeVar("T")

# The elements' codes, of the modules array and struct.
_CODES = {
    "FLOAT": "f",
    "DOUBLE": "d",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "BOOL": "B",
    "FLOAT16": "e",
    "BFLOAT16": "bfloat16",
    "STRING": "",
}
_SIZES = {"e": 2, "bfloat16": 2} | {code: array(code).itemsize for code in "fdbhiqBHIQ"}
_NAMES_KEPT = 0.1  # seconds: so long after a model was overwritten, runs may take its inputs in the old order
_MODELS_KEPT = 1_000
_IN_TRANSACTION = "within a transaction"


class RedisAIError(Exception):
    """A mistake that this module found. Its text is that of the command, where a command would have found it."""


@dataclass(frozen=True, slots=True, repr=False)
class Tensor:
    """A type of AI.TENSORSET, dimensions and elements: the bytes of BLOB; for STRING the elements of RAW."""

    dtype: str
    dims: tuple[int, ...]
    data: bytes | tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"<tensor {self.dtype} {'x'.join(map(str, self.dims)) or 'scalar'}>"

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of AI.TENSORSET behind the key."""
        if isinstance(self.data, bytes):
            return (self.dtype, *self.dims, "BLOB", self.data)
        return (self.dtype, *self.dims, "RAW", *self.data) if self.data else (self.dtype, *self.dims)


def _tensor(reply: list[Any]) -> Tensor:
    """Of the reply to AI.TENSORGET META RAW."""
    _, dtype, _, dims, _, data = reply
    return Tensor(dtype.decode(), tuple(dims), tuple(data) if isinstance(data, list) else data)


def _expect(value: object, kind: type[T], name: str) -> T:
    if not isinstance(value, kind):
        raise RedisAIError(f"{name} is expected, not {value!r:.100}")
    return value


def _key(key: object) -> Key:
    if not isinstance(key, str | bytes):
        raise RedisAIError(f"the name of a key is text or bytes, not {key!r:.100}")
    return key


def _listed(values: object) -> Sequence[Any]:
    """A list, so that no function takes bytes or a buffer for packed elements."""
    if isinstance(values, list | tuple):
        return values
    if not isinstance(values, Iterable):
        raise RedisAIError(f"a list is expected, not {values!r:.100}")
    return list(values)


def _kind(dtype: object, dims: object) -> tuple[str, tuple[int, ...], int]:
    """The type's name, the dimensions, and of how many elements such a tensor is."""
    name = dtype.upper() if isinstance(dtype, str) else ""
    if name not in _CODES:
        raise RedisAIError("invalid data type")
    try:
        shape = tuple(map(operator.index, _listed(dims)))
    except TypeError:
        shape = (-1,)
    if shape and min(shape) < 0:
        raise RedisAIError("invalid or negative value found in tensor shape")
    return name, shape, math.prod(shape)


# ---- elements --------------------------------------------------------------------------------------------------------


def _text(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise RedisAIError("invalid value")


def _whole(value: Any) -> Any:
    """2 of 2.0; what is no whole number stays, and is refused."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _half(value: float) -> bytes:
    """The nearest FLOAT16. What is too large becomes infinite, as with AI.TENSORSET."""
    try:
        return struct.pack("<e", value)
    except OverflowError:
        return struct.pack("<e", math.copysign(math.inf, value))


def _brain(value: float) -> bytes:
    """The nearest BFLOAT16, ties to even: the upper half of a FLOAT that has 8 significant bits."""
    if math.isfinite(value):
        unit = 8 - max(math.frexp(value)[1], -125)
        value = math.copysign(math.ldexp(round(math.ldexp(value, unit)), -unit), value)
    return array("f", [value]).tobytes()[2:]


def _encode(code: str, values: Sequence[Any]) -> bytes:
    try:
        if code == "e":
            return b"".join(map(_half, map(float, values)))
        if code == "bfloat16":
            return b"".join(map(_brain, map(float, values)))
        try:
            return array(code, values).tobytes()
        except TypeError:
            if code in "fd":
                raise
            return array(code, map(_whole, values)).tobytes()
    except (TypeError, ValueError, OverflowError):
        raise RedisAIError("invalid value") from None


def _decode(code: str, data: bytes) -> list[Any]:
    if code == "e":
        return list(struct.unpack(f"<{len(data) // 2}e", data))
    if code == "bfloat16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[::2], data[1::2]
        code, data = "f", bytes(wide)
    return array(code, data).tolist()  # array() takes bytes as they are


def _plain(element: bytes) -> str | bytes:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return element


# ---- tensors ---------------------------------------------------------------------------------------------------------


def createTensorFromValues(type: str, dims: Sequence[int], values: Iterable[Any]) -> Tensor:
    """values: numbers (for STRING texts) in C order."""
    name, shape, length = _kind(type, dims)
    values = _listed(values)
    if len(values) != length:
        raise RedisAIError("wrong number of values was given in 'AI.TENSORSET' command")
    if name == "STRING":
        return Tensor(name, shape, tuple(map(_text, values)))
    data = _encode(_CODES[name], values)
    if name == "BOOL" and data.strip(b"\0\1"):
        raise RedisAIError("invalid value")
    return Tensor(name, shape, data)


def createTensorFromBlob(type: str, dims: Sequence[int], blob: bytes | bytearray | memoryview | str) -> Tensor:
    """blob: bytes as AI.TENSORSET BLOB takes them, or what has them in a buffer. Readers give bytes that are UTF-8 by
    chance as text, so text stands for its bytes."""
    name, shape, length = _kind(type, dims)
    if isinstance(blob, str):
        blob = _text(blob)
    try:
        data = blob if isinstance(blob, bytes) else bytes(memoryview(blob))
    except TypeError:
        raise RedisAIError(f"a blob is bytes or a buffer, not {blob!r:.100}") from None
    if name == "STRING":
        *texts, rest = data.split(b"\0")
        if rest or len(texts) != length:
            raise RedisAIError("Number of string elements in data blob does not match tensor length")
        return Tensor(name, shape, tuple(texts))
    if len(data) != length * _SIZES[_CODES[name]]:
        raise RedisAIError("data length does not match tensor shape and type")
    if name == "BOOL" and data.strip(b"\0\1"):
        raise RedisAIError("BOOL tensor elements must be 0 or 1")
    return Tensor(name, shape, data)


def tensorToFlatList(tensor: Tensor) -> list[Any]:
    """The elements in C order. Those of STRING are str where they are UTF-8, else bytes."""
    data = _expect(tensor, Tensor, "a tensor").data
    return _decode(_CODES[tensor.dtype], data) if isinstance(data, bytes) else list(map(_plain, data))


def tensorGetDataAsBlob(tensor: Tensor) -> bytearray:
    """The bytes that AI.TENSORGET BLOB returns."""
    data = _expect(tensor, Tensor, "a tensor").data
    if isinstance(data, bytes):
        return bytearray(data)
    if any(b"\0" in element for element in data):
        raise RedisAIError("an element of the tensor contains a null character, at which BLOB ends elements")
    return bytearray(b"".join(element + b"\0" for element in data))


def tensorGetDims(tensor: Tensor) -> tuple[int, ...]:
    return _expect(tensor, Tensor, "a tensor").dims


# ---- runners ---------------------------------------------------------------------------------------------------------


class _Once:
    """What is filled and then run once."""

    has_run = False

    def open(self) -> None:
        if self.has_run:
            raise RedisAIError("a runner runs once: make a new one for the next run")

    def close(self) -> None:
        self.open()
        self.has_run = True


class _ModelRunner(_Once):
    def __init__(self, key: Key) -> None:
        self.key = key
        self.inputs: list[tuple[str, Tensor]] = []
        self.outputs: list[str] = []


class _ScriptRunner(_Once):
    def __init__(self, key: Key, function: str) -> None:
        self.key = key
        self.function = function
        self.inputs: list[Tensor] = []
        self.outputs = 0


def createModelRunner(key: Key) -> _ModelRunner:
    return _ModelRunner(_key(key))


def modelRunnerAddInput(runner: _ModelRunner, name: str, tensor: Tensor) -> int:
    """The names of TF models count; for others, the order does."""
    _expect(runner, _ModelRunner, "a model runner").open()
    runner.inputs.append((_expect(name, str, "the name of an input"), _expect(tensor, Tensor, "a tensor")))
    return 1


def modelRunnerAddOutput(runner: _ModelRunner, name: str) -> int:
    _expect(runner, _ModelRunner, "a model runner").open()
    runner.outputs.append(_expect(name, str, "the name of an output"))
    return 1


def createScriptRunner(key: Key, function: str) -> _ScriptRunner:
    return _ScriptRunner(_key(key), _expect(function, str, "the name of a function"))


def scriptRunnerAddInput(runner: _ScriptRunner, tensor: Tensor) -> int:
    return scriptRunnerAddInputList(runner, [tensor])


def scriptRunnerAddInputList(runner: _ScriptRunner, tensors: Iterable[Tensor]) -> int:
    _expect(runner, _ScriptRunner, "a script runner").open()
    runner.inputs += [_expect(tensor, Tensor, "a tensor") for tensor in _listed(tensors)]
    return 1


def scriptRunnerAddOutput(runner: _ScriptRunner) -> int:
    _expect(runner, _ScriptRunner, "a script runner").open()
    runner.outputs += 1
    return 1


_Names: TypeAlias = tuple[list[str], list[str]]  # of a TF model's inputs and outputs


def _names(reply: list[Any]) -> _Names | None:
    """Of the reply to AI.MODELGET META; None if names do not count."""
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    if fields[b"backend"] != b"TF":
        return None
    return [name.decode() for name in fields[b"inputs"]], [name.decode() for name in fields[b"outputs"]]


def _check(key: Key, what: str, given: list[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise RedisAIError(f"the model '{_shown(key)}' has no {what} '{name:.100}': it has {', '.join(known)}")
        if given.count(name) > 1:
            raise RedisAIError(f"the {what} '{name:.100}' of the model '{_shown(key)}' was added twice")


def _shown(key: Key) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else key


def _run_words(
    command: str, key: Key, inputs: Sequence[Tensor], run: Sequence[Word], outputs: int, wanted: Iterable[int]
) -> list[Word]:
    """A DAG of one run, which returns the wanted ones of its outputs. Local names are numbers: inputs, then outputs."""
    count = len(inputs)
    words: list[Word] = [command, "ROUTING", key]
    for number, tensor in enumerate(inputs):
        words += ("|>", "AI.TENSORSET", number, *tensor.words)
    words += ("|>", *run, "INPUTS", count, *range(count), "OUTPUTS", outputs, *range(count, count + outputs))
    for number in wanted:
        words += ("|>", "AI.TENSORGET", count + number, "META", "RAW")
    return words


def _model_words(runner: _ModelRunner, names: _Names | None) -> list[Word]:
    key, inputs = runner.key, [tensor for _, tensor in runner.inputs]
    outputs = len(runner.outputs)
    wanted: Iterable[int] = range(outputs)
    if not outputs:
        raise RedisAIError(
            f"the runner of the model '{_shown(key)}' has no outputs: add them by modelRunnerAddOutput()"
        )
    if names:
        given = [name for name, _ in runner.inputs]
        _check(key, "input", given, names[0])
        _check(key, "output", runner.outputs, names[1])
        for name in names[0]:
            if name not in given:
                raise RedisAIError(f"the input '{name}' of the model '{_shown(key)}' is missing")
        inputs = [inputs[given.index(name)] for name in names[0]]
        outputs, wanted = len(names[1]), [names[1].index(name) for name in runner.outputs]
    return _run_words("AI.DAGEXECUTE_RO", key, inputs, ("AI.MODELEXECUTE", key), outputs, wanted)


def _script_words(runner: _ScriptRunner) -> list[Word]:
    run = ("AI.SCRIPTEXECUTE", runner.key, runner.function)
    return _run_words("AI.DAGEXECUTE", runner.key, runner.inputs, run, runner.outputs, range(runner.outputs))


def _replies(reply: Any) -> list[Any]:
    """The replies of a DAG's commands, if all are right."""
    if not isinstance(reply, list):
        raise RedisAIError(str(_plain(reply)))  # TIMEDOUT, by CLIENT UNBLOCK
    for each in reply:
        if isinstance(each, Exception):
            raise each
    return reply


def _outputs(reply: Any) -> list[Tensor]:
    return [_tensor(each) for each in _replies(reply) if isinstance(each, list)]


class _DAGRunner(_Once):
    """Commands that run as one. Each method returns the runner."""

    def __init__(self, call_async: CallAsync) -> None:
        self._call = call_async
        self._inputs: list[Word] = []
        self._steps: list[list[Word]] = []

    def _add(self, *words: Word) -> _DAGRunner:
        self.open()
        self._steps.append(list(words))
        return self

    def Input(self, name: str, tensor: Tensor) -> _DAGRunner:
        """A tensor that is there before all steps. Run() has no result of it."""
        self.open()
        self._inputs += ("|>", "AI.TENSORSET", _key(name), *_expect(tensor, Tensor, "a tensor").words)
        return self

    def TensorSet(self, name: str, tensor: Tensor) -> _DAGRunner:
        return self._add("AI.TENSORSET", _key(name), *_expect(tensor, Tensor, "a tensor").words)

    def TensorGet(self, name: str) -> _DAGRunner:
        return self._add("AI.TENSORGET", _key(name), "META", "RAW")

    def ModelRun(self, name: Key, inputs: Sequence[str], outputs: Sequence[str]) -> _DAGRunner:
        return self._add("AI.MODELEXECUTE", _key(name), *_section("INPUTS", inputs), *_section("OUTPUTS", outputs))

    def ScriptRun(self, name: Key, func: str, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> _DAGRunner:
        sections = [*_section("INPUTS", inputs), *_section("OUTPUTS", outputs)]
        return self._add("AI.SCRIPTEXECUTE", _key(name), _expect(func, str, "the name of a function"), *sections)

    def OpsFromString(self, text: str) -> _DAGRunner:
        """Adds the commands of a text as AI.DAGEXECUTE takes them: AI.… |> AI.…"""
        self.open()
        steps: list[list[Word]] = [[]]
        for word in _expect(text, str, "the text of a DAG").split():
            if word == "|>":
                steps.append([])
            else:
                steps[-1].append(word)
        if not steps[0]:
            del steps[0]  # the text began with |>
        if not steps or [] in steps:
            raise RedisAIError("Unsupported command within DAG")
        for step in steps:
            step[0] = str(step[0]).upper()
            if step[0] == "AI.TENSORGET":
                step[2:] = ["META", "RAW"]
        self._steps += steps
        return self

    def Run(self) -> Awaitable[list[Any]]:
        """A list: for each step a tensor, if it is a TensorGet, else its status."""
        self.close()
        commands = [step[0] for step in self._steps]
        if not commands:
            raise RedisAIError("DAG is empty")
        keyed = [step[1] for step in self._steps if len(step) > 1 and not str(step[0]).startswith("AI.TENSOR")]
        is_written = "AI.SCRIPTEXECUTE" in commands or "AI.HASHSET" in commands
        command = "AI.DAGEXECUTE" if is_written else "AI.DAGEXECUTE_RO"
        words: list[Word] = [command, "ROUTING", keyed[0] if keyed else self._steps[0][-1], *self._inputs]
        for step in self._steps:
            words += ("|>", *step)
        return _begin(self._results(words))

    async def _results(self, words: list[Word]) -> list[Any]:
        replies = _replies(await self._call(*words))
        pairs = zip(self._steps, replies[len(replies) - len(self._steps) :], strict=True)
        return [_tensor(reply) if step[0] == "AI.TENSORGET" else _plain(reply) for step, reply in pairs]


def _section(word: str, names: Sequence[str]) -> list[Word]:
    listed = [names] if isinstance(names, str | bytes) else _listed(names)
    return [word, len(listed), *map(_key, listed)] if listed else []


def _begin(run: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """Begins it now, so that several runs are under way before the first is awaited. A thread without a loop cannot:
    there it begins when it is awaited."""
    try:
        return asyncio.get_running_loop().create_task(run)
    except RuntimeError:
        return run


# ---- the module ------------------------------------------------------------------------------------------------------


def make_module(call: Call, call_async: CallAsync, database: Callable[[], object] | None = None) -> ModuleType:
    """redisAI, whose commands go through call and call_async.

    database tells apart the databases that call may mean: then the names of models are kept for a moment. Without it,
    they are asked for before each run.
    """
    kept: dict[object, tuple[float, _Names | None]] = {}

    def setTensorInKey(key: Key, tensor: Tensor) -> None:
        call("AI.TENSORSET", _key(key), *_expect(tensor, Tensor, "a tensor").words)

    def msetTensorsInKeyspace(tensors: dict[Key, Tensor]) -> None:
        """Sets all keys or none."""
        _expect(tensors, dict, "a dict of keys and tensors")
        steps = [(_key(key), *_expect(tensor, Tensor, "a tensor").words) for key, tensor in tensors.items()]
        if not steps:
            return
        words: list[Word] = ["AI.DAGEXECUTE", "PERSIST", len(steps), *tensors]
        for step in steps:
            words += ("|>", "AI.TENSORSET", *step)
        if not in_one(words):
            for step in steps:
                call("AI.TENSORSET", *step)

    def in_one(words: list[Word]) -> list[Any]:
        """The replies of a DAG; none in a transaction, where no DAG runs. There, single commands are as one."""
        try:
            return _replies(call(*words))
        except Exception as error:
            if _IN_TRANSACTION not in str(error):
                raise
            return []

    def getTensorFromKey(key: Key) -> Tensor:
        return _tensor(call("AI.TENSORGET", _key(key), "META", "RAW"))

    def mgetTensorsFromKeyspace(keys: Iterable[Key]) -> list[Tensor]:
        keys = [_key(key) for key in _listed(keys)]
        loaded = list(dict.fromkeys(keys))
        words: list[Word] = ["AI.DAGEXECUTE_RO", "LOAD", len(loaded), *loaded]
        for key in keys:
            words += ("|>", "AI.TENSORGET", key, "META", "RAW")
        return [_tensor(reply) for reply in in_one(words)] or [getTensorFromKey(key) for key in keys] if keys else []

    def place(key: Key) -> object:
        return (database(), key) if database else None

    def recall(key: Key) -> tuple[float, _Names | None] | None:
        found = kept.get(place(key))
        return found if found and found[0] > time.monotonic() else None

    def remember(key: Key, reply: list[Any]) -> tuple[float, _Names | None]:
        found = time.monotonic() + _NAMES_KEPT, _names(reply)
        if database:
            if len(kept) >= _MODELS_KEPT:
                kept.clear()
            kept[place(key)] = found
        return found

    def opened(runner: _ModelRunner) -> _ModelRunner:
        _expect(runner, _ModelRunner, "a model runner").close()
        return runner

    def modelRunnerRun(runner: _ModelRunner) -> list[Tensor]:
        key = opened(runner).key
        _, names = recall(key) or remember(key, call("AI.MODELGET", key, "META"))
        return _outputs(call(*_model_words(runner, names)))

    def modelRunnerRunAsync(runner: _ModelRunner) -> Awaitable[list[Tensor]]:
        return _begin(run_model(opened(runner)))

    async def run_model(runner: _ModelRunner) -> list[Tensor]:
        key = runner.key
        _, names = recall(key) or remember(key, await call_async("AI.MODELGET", key, "META"))
        return _outputs(await call_async(*_model_words(runner, names)))

    def scriptRunnerRun(runner: _ScriptRunner) -> list[Tensor]:
        _expect(runner, _ScriptRunner, "a script runner").close()
        return _outputs(call(*_script_words(runner)))

    def scriptRunnerRunAsync(runner: _ScriptRunner) -> Awaitable[list[Tensor]]:
        _expect(runner, _ScriptRunner, "a script runner").close()
        return _begin(run_script(runner))

    async def run_script(runner: _ScriptRunner) -> list[Tensor]:
        return _outputs(await call_async(*_script_words(runner)))

    def createDAGRunner() -> _DAGRunner:
        return _DAGRunner(call_async)

    module = ModuleType("redisAI", "Tensors, models and scripts of the server, for flows.")
    functions: list[Callable[..., Any]] = [
        createTensorFromValues,
        createTensorFromBlob,
        tensorToFlatList,
        tensorGetDataAsBlob,
        tensorGetDims,
        setTensorInKey,
        msetTensorsInKeyspace,
        getTensorFromKey,
        mgetTensorsFromKeyspace,
        createModelRunner,
        modelRunnerAddInput,
        modelRunnerAddOutput,
        modelRunnerRun,
        modelRunnerRunAsync,
        createScriptRunner,
        scriptRunnerAddInput,
        scriptRunnerAddInputList,
        scriptRunnerAddOutput,
        scriptRunnerRun,
        scriptRunnerRunAsync,
        createDAGRunner,
    ]
    for function in functions:
        setattr(module, function.__name__, function)
    return module
