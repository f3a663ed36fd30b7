"""The commands of the module on a client of redis-py, with NumPy arrays as tensors. docs/clients.md is its manual.

Each method sends one command by execute_command() of the client that it is given, as redis-py's own classes of commands
do. So one set of methods serves redis.Redis, RedisCluster, their twins in redis.asyncio, and the pipelines of all of
them. This package uses redis-py and NumPy, and nothing of the module: it may be copied to where the module is not.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import redis
from redis.client import NEVER_DECODE

from .models import define

__all__ = ["DTYPES", "AsyncRedisAI", "Dag", "RedisAI", "TimedOut"]

Array: TypeAlias = npt.NDArray[Any]
Key: TypeAlias = str | bytes
Keys: TypeAlias = Key | Iterable[Key]
Word: TypeAlias = str | bytes | int | float
# The docstring says what a method returns. With a client of redis.asyncio, it returns an awaitable of that; with a
# pipeline, the pipeline, whose execute() returns that. Only Any fits all three.
Reply: TypeAlias = Any

DTYPES = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "FLOAT16": "float16",
    "BFLOAT16": "bfloat16",  # of the package ml_dtypes
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "BOOL": "bool",
    "STRING": "object",  # holds str
}
_NAMES = {numpy: name for name, numpy in DTYPES.items()}
_CHUNK = 500 * 10**6  # below proto-max-bulk-len, the longest argument that a server takes


class TimedOut(redis.ResponseError):
    """A run did not end within its timeout. Nothing was saved."""


def _names(keys: Keys) -> list[Key]:
    return [keys] if isinstance(keys, str | bytes) else list(keys)


def _section(word: str, keys: Keys) -> list[Word]:
    """A word, how many keys follow, and these."""
    keys = _names(keys)
    return [word, len(keys), *keys]


def _option(word: str, value: str | float | None) -> list[Word]:
    return [] if value is None else [word, value]


def _limits(
    size: int | str | None,
    minimum: int | None,
    wait_ms: float | None,
    queue: int | None,
    timeout_ms: int | None,
    priority: str | None,
    cache: int | None,
) -> list[Word]:
    words = [*_option("BATCHSIZE", size), *_option("MINBATCHSIZE", minimum), *_option("MINBATCHTIMEOUT", wait_ms)]
    return [*words, *_option("MAXQUEUE", queue), *_of_run(timeout_ms, priority), *_option("CACHE", cache)]


def _of_run(timeout_ms: int | None, priority: str | None) -> list[Word]:
    return [*_option("TIMEOUT", timeout_ms), *_option("PRIORITY", priority)]


def _warmup(inputs: Sequence[npt.ArrayLike]) -> list[Word]:
    """Types and shapes."""
    return ["WARMUP", len(inputs), *(word for value in inputs for word in _tensor_words(value)[: 1 + np.ndim(value)])]


def _plain(reply: Any) -> Any:
    """Text instead of bytes, also in lists."""
    if isinstance(reply, bytes):
        return reply.decode(errors="surrogateescape")
    return [_plain(item) for item in reply] if isinstance(reply, list) else reply


def _fields(reply: Any) -> dict[str, Any]:
    """The fields of a reply: a map in RESP3, a list in RESP2."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_plain(name): _plain(value) for name, value in pairs}


def _joined(reply: bytes | list[bytes]) -> bytes:
    return b"".join(reply) if isinstance(reply, list) else reply


def _string(element: object) -> bytes:
    if not isinstance(element, str | bytes):
        raise TypeError(f"{element!r} is neither str nor bytes: no element of a STRING tensor")
    return element.encode(errors="surrogateescape") if isinstance(element, str) else element


def _tensor_words(value: npt.ArrayLike) -> list[Word]:
    """The words of AI.TENSORSET behind the key."""
    array = np.asarray(value)
    if array.dtype.kind in "SU" and not isinstance(value, np.ndarray):
        array = np.asarray(value, object)  # NumPy's own strings have no NULs at the end
    if array.dtype.kind in "OSU":
        return ["STRING", *array.shape, "RAW", *map(_string, array.ravel().tolist())]
    if array.dtype.name not in _NAMES:
        raise TypeError(f"no tensor has the dtype {array.dtype}; choose one of {', '.join(_NAMES)}, or strings")
    blob = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return [_NAMES[array.dtype.name], *array.shape, "BLOB", blob]


def _array(reply: Any) -> Array:
    """What AI.TENSORGET META RAW returned, as an array that may be written to."""
    fields = {_plain(name): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
    name, shape = _plain(fields["dtype"]), tuple(fields["shape"])
    array: Array
    if name == "STRING":
        array = np.empty(len(fields["values"]), object)
        array[:] = _plain(fields["values"])
    else:
        if name == "BFLOAT16":
            import ml_dtypes  # noqa: F401 - tells NumPy of bfloat16
        array = np.frombuffer(fields["blob"], np.dtype(DTYPES[name]).newbyteorder("<")).copy()
    array = array.reshape(shape)
    return array


def _receive(reply: Any, parse: Callable[[Any], Any] | None = None, **_: Any) -> Any:
    """The callback of all commands. Other users of the same client, who give no parse, get what they always got."""
    if parse is None or isinstance(reply, Exception):  # pipelines of clusters pass on errors
        return reply
    if reply == b"TIMEDOUT":
        raise TimedOut("TIMEDOUT")
    return parse(reply)


def _ok(reply: Any) -> bool:
    return bool(reply == b"OK")


class _Steps:
    """The commands that a client sends alone, and that may be in a DAG."""

    def _ask(self, parse: Callable[[Any], Any], *words: Word) -> Reply:
        raise NotImplementedError

    def tensor_set(self, key: Key, value: npt.ArrayLike) -> Reply:
        """Makes a tensor of an array, or of what NumPy takes for one, of any shape. Returns True.

        The dtype follows from the array's: FLOAT of float32, DOUBLE of float64 (which Python's floats are), STRING of
        str and bytes, and so on (DTYPES). Raises TypeError for others.
        """
        return self._ask(_ok, "AI.TENSORSET", key, *_tensor_words(value))

    def tensor_get(self, key: Key) -> Reply:
        """Returns a tensor as an array of its shape and dtype (DTYPES); STRING elements as str, with surrogateescape.

        Raises redis.ResponseError if there is no tensor.
        """
        return self._ask(_array, "AI.TENSORGET", key, "META", "RAW")

    def tensor_from_hashes(
        self, key: Key, hashes: Keys, fields: Keys, *, dtype: str = "FLOAT", default: float | str | None = None
    ) -> Reply:
        """Makes a tensor of fields of hashes on the server. Returns True.

        hashes: a list gives a row for each hash and a column for each field; a single key gives a vector. default is
        the value of what is missing. Raises redis.ResponseError for what is missing without it, or is no number.
        """
        names = _names(fields)
        source: list[Word] = ["*", len(names), "FROM", *_section("HASHES", hashes)]
        if isinstance(hashes, str | bytes):
            source = ["*", "FROM", "HASH", hashes]
        words = [*source, *_section("FIELDS", names), *_option("DEFAULT", None if default is None else str(default))]
        return self._ask(_ok, "AI.TENSORSET", key, dtype, *words)

    def hash_set(self, key: Key, tensors: Mapping[Key, Key], form: str | None = None) -> Reply:
        """Sets fields of a hash to what tensors hold, {field: key of the tensor}. Returns True.

        form: NUMBER, TEXT, ARGMAX or BLOB; without it, the one element of each tensor. Raises redis.ResponseError if a
        tensor has no such form.
        """
        words = [word for field, tensor in tensors.items() for word in (field, tensor, *_option("AS", form))]
        return self._ask(_ok, "AI.HASHSET", key, *words)

    def model_execute(
        self, key: Key, inputs: Keys, outputs: Keys, *, timeout_ms: int | None = None, priority: str | None = None
    ) -> Reply:
        """Runs a model on the tensors of some keys and saves its outputs under others. Returns True.

        priority: low, normal or high; without it, the model's. Raises redis.ResponseError if it fails (a wrong dtype,
        shape or number), TimedOut after timeout_ms.
        """
        words = [*_section("INPUTS", inputs), *_section("OUTPUTS", outputs), *_of_run(timeout_ms, priority)]
        return self._ask(_ok, "AI.MODELEXECUTE", key, *words)

    def script_execute(
        self,
        key: Key,
        function: str,
        inputs: Keys = (),
        outputs: Keys = (),
        *,
        keys: Keys = (),
        args: Iterable[Word] = (),
        timeout_ms: int | None = None,
        priority: str | None = None,
    ) -> Reply:
        """Runs a function of a script: tensors of inputs, keys and args go in, its tensors come out under outputs.

        Returns True. Raises redis.ResponseError if it fails, TimedOut after timeout_ms.
        """
        words = _section("KEYS", keys) if _names(keys) else []
        words += _section("INPUTS", inputs)
        words += ["ARGS", len(given), *given] if (given := list(args)) else []
        words += _section("OUTPUTS", outputs) if _names(outputs) else []
        return self._ask(_ok, "AI.SCRIPTEXECUTE", key, function, *words, *_of_run(timeout_ms, priority))


class RedisAI(_Steps):
    """RedisAI(client) gives the commands of the module to a client or a pipeline of redis-py."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def _ask(self, parse: Callable[[Any], Any], *words: Word) -> Reply:
        # A pipeline shares the callbacks of its client, and may lack the method.
        client = self.client if hasattr(self.client, "set_response_callback") else self.client._client
        client.set_response_callback(words[0], _receive)
        return self.client.execute_command(*words, **{NEVER_DECODE: [], "parse": parse})

    def _then(self, reply: Any, step: Callable[[Any], Any]) -> Any:
        return step(reply)

    def run(
        self,
        key: Key,
        *inputs: npt.ArrayLike,
        outputs: int | None = None,
        timeout_ms: int | None = None,
        priority: str | None = None,
    ) -> Reply:
        """Runs a model on arrays and returns a list of arrays. Writes no key, so it also runs on a read-only replica.

        outputs is the number of the model's outputs. Without it, the model is asked first, which takes another round
        trip; in a pipeline, give it. Raises redis.ResponseError if the run fails, TimedOut after timeout_ms.
        """
        if outputs is None:
            if hasattr(self.client, "execute"):  # only pipelines have it
                raise TypeError("in a pipeline, give outputs")
            return self._then(
                self.model_get(key),
                lambda model: self.run(
                    key, *inputs, outputs=_outputs_of(model), timeout_ms=timeout_ms, priority=priority
                ),
            )
        dag = self.dag(routing=key, timeout_ms=timeout_ms, priority=priority, read_only=True)
        names = [f"in{i}" for i in range(len(inputs))], [f"out{i}" for i in range(outputs)]
        for name, value in zip(names[0], inputs, strict=True):
            dag.tensor_set(name, value)
        dag.model_execute(key, *names)
        for name in names[1]:
            dag.tensor_get(name)
        return dag.execute()

    def dag(
        self,
        *,
        load: Keys = (),
        persist: Keys = (),
        routing: Key | None = None,
        timeout_ms: int | None = None,
        priority: str | None = None,
        read_only: bool = False,
    ) -> Dag:
        """Begins a DAG: call tensor_set(), model_execute(), script_execute(), tensor_get() of it, then execute().

        One of load, persist and routing is needed. read_only uses AI.DAGEXECUTE_RO, which replicas run too.
        """
        words: list[Word] = ["AI.DAGEXECUTE_RO" if read_only else "AI.DAGEXECUTE"]
        words += _section("LOAD", load) if _names(load) else []
        words += _section("PERSIST", persist) if _names(persist) else []
        words += [] if routing is None else ["ROUTING", routing]
        return Dag(self, words + _of_run(timeout_ms, priority))

    def model_store(
        self,
        key: Key,
        model: Any,
        *,
        backend: str | None = None,
        device: str = "CPU",
        tag: str | None = None,
        batch_size: int | Literal["auto"] | None = None,
        min_batch_size: int | None = None,
        min_batch_timeout_ms: float | None = None,
        max_queue: int | None = None,
        timeout_ms: int | None = None,
        priority: str | None = None,
        cache_bytes: int | None = None,
        warmup: Sequence[Sequence[npt.ArrayLike]] = (),
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        example: Any = None,
    ) -> Reply:
        """Compiles and stores a model. Returns True. Raises redis.ResponseError if the library refuses the model.

        model: a file's path or bytes, or a folder with a SavedModel; an object of onnx; an estimator of scikit-learn,
        LightGBM or XGBoost; a module of PyTorch; a model of Keras. define() in models.py says what it does with each.
        backend: ONNX, TORCH, TF or TFLITE; without it, the bytes tell. PyTorch's modules become TORCH, or ONNX; Keras's
        models become ONNX, or TF. inputs, outputs: names of nodes, for the bytes of a TF graph only.
        warmup: inputs like those that runs will bring, of which only types and shapes count: the server runs the model
        with each before it answers, and after a restart. [[x], [batch]] is for two shapes of one input.
        example: arguments as the model gets them (tensor or tuple of tensors for PyTorch, array for scikit-learn).
        """
        model, backend, inputs, outputs = define(model, backend, example, inputs, outputs)
        limits = batch_size, min_batch_size, min_batch_timeout_ms, max_queue, timeout_ms, priority, cache_bytes
        words = _option("TAG", tag) + _limits(*limits)
        words += [word for each in warmup for word in _warmup(each)]
        words += [*_section("INPUTS", inputs), *_section("OUTPUTS", outputs)] if inputs or outputs else []
        chunks = [model[start : start + _CHUNK] for start in range(0, max(len(model), 1), _CHUNK)]
        return self._ask(_ok, "AI.MODELSTORE", key, backend, device, *words, "BLOB", *chunks)

    def model_config(
        self,
        key: Key,
        *,
        batch_size: int | Literal["auto"] | None = None,
        min_batch_size: int | None = None,
        min_batch_timeout_ms: float | None = None,
        max_queue: int | None = None,
        timeout_ms: int | None = None,
        priority: str | None = None,
        cache_bytes: int | None = None,
    ) -> Reply:
        """Changes how a stored model is batched and what its runs may take; what is not given stays. Returns True."""
        limits = batch_size, min_batch_size, min_batch_timeout_ms, max_queue, timeout_ms, priority, cache_bytes
        words = _limits(*limits)
        return self._ask(_ok, "AI.MODELCONFIG", key, *words)

    def model_get(self, key: Key, *, full: bool = False) -> Reply:
        """Returns a model's backend, device, tag, inputs, outputs (lists of names) and batching: a dict of str.

        full adds what it declares of its inputs and outputs: see AI.MODELGET in docs/commands.md.
        """
        return self._ask(_fields, "AI.MODELGET", key, "FULL" if full else "META")

    def model_blob(self, key: Key) -> Reply:
        """Returns a model's bytes, as they were stored."""
        return self._ask(_joined, "AI.MODELGET", key, "BLOB")

    def script_store(
        self,
        key: Key,
        script: str | Callable[..., Any] | Sequence[Callable[..., Any]],
        *,
        device: str = "CPU",
        tag: str | None = None,
        entry_points: Sequence[str] | None = None,
    ) -> Reply:
        """Compiles and stores functions of TorchScript: their source, or one or more Python functions. Returns True.

        The source of functions is read from their file; their names and globals are not kept. entry_points: what
        clients may call; without it, all functions with the parameters (tensors, keys, args).
        Raises ValueError if there is none, OSError if a source is not found, redis.ResponseError for mistakes.
        """
        if not isinstance(script, str):
            functions = [script] if callable(script) else script
            script = "\n".join(textwrap.dedent(inspect.getsource(function)) for function in functions)
        if entry_points is None:
            found = [step for step in ast.parse(script).body if isinstance(step, ast.FunctionDef)]
            entry_points = [f.name for f in found if [a.arg for a in f.args.args] == ["tensors", "keys", "args"]]
            if not entry_points:
                raise ValueError("no function has the parameters (tensors, keys, args); a def has to have them")
        words = [*_option("TAG", tag), *_section("ENTRY_POINTS", entry_points), "SOURCE", script]
        return self._ask(_ok, "AI.SCRIPTSTORE", key, device, *words)

    def script_get(self, key: Key) -> Reply:
        """Returns a script's device, tag, "Entry Points" (a list of names) and source: a dict of str."""
        return self._ask(_fields, "AI.SCRIPTGET", key)

    def info(self, key: Key, *, full: bool = False) -> Reply:
        """Returns the statistics of a model or a script, a dict: see AI.INFO in docs/commands.md."""
        return self._ask(_fields, "AI.INFO", key, *(["FULL"] if full else []))


class AsyncRedisAI(RedisAI):
    """AsyncRedisAI(client) does the same for clients of redis.asyncio: await what the methods return."""

    async def _then(self, reply: Any, step: Callable[[Any], Any]) -> Any:
        return await step(await reply)


class Dag(_Steps):
    """Commands that run as one. Each method returns the DAG itself."""

    def __init__(self, ai: RedisAI, words: list[Word]) -> None:
        self._ai = ai
        self._words = words
        self._parse: list[Callable[[Any], Any]] = []

    def _ask(self, parse: Callable[[Any], Any], *words: Word) -> Reply:
        self._words += ["|>", *words]
        self._parse.append(parse)
        return self

    def execute(self) -> Reply:
        """Runs all commands. Returns the arrays of tensor_get(), in order. Raises the first error, or TimedOut."""
        return self._ai._ask(self._arrays, *self._words)

    def _arrays(self, replies: list[Any]) -> list[Array]:
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return [_array(reply) for reply, parse in zip(replies, self._parse, strict=True) if parse is _array]


def _outputs_of(model: dict[str, Any]) -> int:
    if not model["outputs"]:
        raise ValueError("the model does not say how many outputs it has: give outputs")
    return len(model["outputs"])
