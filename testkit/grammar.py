"""Random commands for the fuzz tests: words that are valid, nearly valid or absurd, and the values they work on.

A command is made whole first, of keys that mostly exist and counts that mostly agree; then, now and then, words are
replaced, dropped, doubled or swapped. So most commands get past the first check, and every check sees something wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from hypothesis import strategies as st

from testkit import models, rdb, samples, scripts
from testkit.values import Model, Tensor, Value
from testkit.wire import Error, Wire, Word

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]
Words = tuple[Word, ...]

# What every example begins with, by name.
FLOATS = ("x", "y", "rows")
TENSORS = (*FLOATS, "three", "int", "bool", "text", "large")
ADDERS = ("add", "add1", "batched", "lonely")
MODELS = (*ADDERS, "two", "split", "sequence", "total", "broken")
SCRIPTS = ("s", "redis", "chain", "old")
OTHERS = ("string", "list", "numbers", "hash", "stream")
OUTPUTS = ("out", "out2", "x", "{x}z")
ABSENT = ("none", "", "\0", b"\xff\xfe", "x" * 300)
# Few functions, for they are compiled anew after each FLUSHALL and DEBUG RELOAD.
PLAIN = ("add", "two", "listed", "nothing", "fails", "not_a_number", "itself", "scalar", "mixed", "empty")
REDIS = {
    "run": "redis.execute(args[0], args[1:])",
    "then": 'redis.execute("SET", keys[0], "before")\n    redis.execute(args[0], args[1:])\n    return tensors[0]',
    "twice": "redis.execute(args[0], args[1:])\n    redis.execute(args[0], args[1:])\n    return tensors[0]",
}
CHAINED = {"one": "return redisAI.model_execute(keys[0], tensors, 1)", "named": scripts.FUNCTIONS["itself"]}
CHAINED["two"] = "return redisAI.model_execute(keys[0], tensors, 2)"

TYPES = tuple(rdb.ELEMENT_TYPES)
BAD_NUMBERS: tuple[Word, ...] = (
    *(-1, 0, 2**31 - 1, 2**31, 2**32 + 1, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30),
    *("", "x", "1.5", "1e3", "0x10", " 1", "1 ", "+1", "01", "nan", "inf", b"1\0"),
)
SHORT = (1, 2, 5)  # ms
WORDS: tuple[Word, ...] = (
    *("INPUTS", "OUTPUTS", "KEYS", "ARGS", "BLOB", "VALUES", "META", "SOURCE", "TAG", "TIMEOUT", "LOAD", "PERSIST"),
    *(
        "ROUTING",
        "|>",
        "BATCHSIZE",
        "MINBATCHSIZE",
        "MINBATCHTIMEOUT",
        "MAXQUEUE",
        "WARMUP",
        "PRIORITY",
        "CACHE",
        "ENTRY_POINTS",
        "RESETSTAT",
        "FULL",
        "$",
    ),
    *("inputs", "CPU", "GPU:0", "ONNX", "FLOAT", "|>|>", b"\0", b"\xff" * 9, "", "%s%n", "x" * 70000, *BAD_NUMBERS),
)


@cache
def base() -> dict[str, Words]:
    """The command that stores each value."""
    add = models.onnx_add()
    text = b"one\0\0three\0"
    large = np.arange(200_000, dtype=np.float32).tobytes()  # of the size that stays in the string that brought it

    def model(key: str, backend: str, blob: bytes, *options: Word, device: str = "CPU") -> Words:
        return ("AI.MODELSTORE", key, backend, device, *options, "BLOB", blob)

    def script(key: str, functions: dict[str, str], device: str = "CPU") -> Words:
        return scripts.store_command(
            key, "".join(scripts.function(*item) for item in functions.items()), tuple(functions), device
        )

    return {
        "x": ("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2),
        "y": ("AI.TENSORSET", "y", "FLOAT", 1, 2, "VALUES", 3, "-inf"),
        "rows": ("AI.TENSORSET", "rows", "FLOAT", 3, 2),
        "three": ("AI.TENSORSET", "three", "FLOAT", 3, "VALUES", 0, 1, 2),
        "int": ("AI.TENSORSET", "int", "INT64", 2, 1, "VALUES", 5, -7),
        "bool": ("AI.TENSORSET", "bool", "BOOL", 3, "BLOB", b"\1\0\1"),
        "text": ("AI.TENSORSET", "text", "STRING", 3, "BLOB", text),
        "large": ("AI.TENSORSET", "large", "FLOAT", 100_000, 2, "BLOB", large),
        "add": model("add", "ONNX", add),
        "add1": model("add1", "ONNX", add, device="CPU:1"),
        "batched": model("batched", "ONNX", add, "BATCHSIZE", 4),
        "lonely": model("lonely", "ONNX", add, "BATCHSIZE", 4, "MINBATCHSIZE", 3, "MINBATCHTIMEOUT", 2),
        "two": model("two", "TORCH", models.torch_module(models.SumAndProduct), "BATCHSIZE", 8, "TAG", "tag"),
        "split": model("split", "ONNX", models.onnx_split3(), "BATCHSIZE", 100),
        "sequence": model("sequence", "ONNX", models.onnx_sequence()),
        "total": model("total", "ONNX", models.onnx_total(), "BATCHSIZE", 9),  # drops the dimension of the batch
        "broken": ("RESTORE", "broken", 0, rdb.dump(Model("ONNX", b"not a model"), 4)),
        "s": script("s", {name: scripts.FUNCTIONS[name] for name in PLAIN}),
        "redis": script("redis", REDIS, "CPU:1"),
        "chain": script("chain", CHAINED),
        "old": ("AI.SCRIPTSET", "old", "CPU", "SOURCE", scripts.OLD),
        "string": ("SET", "string", "value"),
        "list": ("RPUSH", "list", "a", "b"),
        "numbers": ("RPUSH", "numbers", 1, 2),
        "hash": ("HSET", "hash", "a", 1, "b", 2.5, "c", "text"),
        "stream": ("XADD", "stream", "1-1", "b", 3, "a", 1),
    }


STORE = 15  # the database from which an example's values are copied


def set_up(wire: Wire) -> None:
    """Databases 0 to 2 as every example finds them. Copies share what is compiled, so this is quick."""
    for number in (2, 1, 0):
        wire.ask("SELECT", number)
        wire.ask("FLUSHDB")
    wire.ask("SELECT", STORE)
    if wire.ask("DBSIZE") != len(base()):
        wire.ask("FLUSHDB")
        for words in base().values():
            reply = wire.ask(*words)
            assert not isinstance(reply, Error), reply
    for key in base():
        wire.send("COPY", key, key, "DB", 0)
    for key in base():
        assert wire.read() == 1, key
    wire.ask("SELECT", 0)


@cache
def payloads() -> tuple[bytes, ...]:
    """For RESTORE: values of all types in all layouts, and some that are not whole."""
    values: list[Value] = [
        samples.TENSORS["FLOAT"],
        samples.TENSORS["STRING"],
        samples.TENSORS["any bytes"],
        Tensor("INT64", (), bytes(8)),
        Tensor("FLOAT", (2, 0, 3), b""),
        samples.ONNX,
        samples.TF,
        samples.TFLITE,
        samples.SCRIPTS["script"],
        samples.SCRIPTS["old script"],
    ]
    whole = [rdb.dump(value, version) for value in values for version in rdb.VERSIONS]
    whole.append(rdb.dump(samples.BATCHED, 4))  # older versions have no time-out, so its runs would wait for ever
    return (*whole, *(rdb.seal(payload[: len(payload) // 2]) for payload in whole[::4]), whole[0][:-1], b"", b"junk")


# ---- single words ----------------------------------------------------------------------------------------------------

_ODDS = st.integers(0, 99)


def chance(draw: Draw[int], percent: int) -> bool:
    # Hypothesis shrinks towards 0, which should be the plain case, and favours both ends.
    return 10 <= draw(_ODDS) < 10 + percent


def one_of(draw: Draw[Word], items: Sequence[Word]) -> Word:
    return draw(st.sampled_from(items))


@dataclass(slots=True)
class Grammar:
    draw: Draw  # type: ignore[type-arg]

    def often(self, items: Sequence[Word], otherwise: Sequence[Word] = ABSENT, percent: int = 10) -> Word:
        """One of the items, or with so many percent one of the others."""
        return one_of(self.draw, otherwise if chance(self.draw, percent) else items)

    def key(self, items: Sequence[str]) -> Word:
        return self.often(items, (*TENSORS, *MODELS, *SCRIPTS, *OTHERS, *OUTPUTS, *ABSENT), 8)

    def any_key(self) -> Word:
        return self.often((*TENSORS, *MODELS, *SCRIPTS, *OUTPUTS), (*OTHERS, *ABSENT), 15)

    def number(self, *items: Word) -> Word:
        return self.often(items, BAD_NUMBERS, 6)

    def some(self, min_count: int, max_count: int, make: Callable[[], Word]) -> Words:
        return tuple(make() for _ in range(self.draw(st.integers(min_count, max_count))))

    def counted(self, items: Words) -> Words:
        return (self.number(len(items)) if not chance(self.draw, 4) else len(items) + 1, *items)

    def timeout(self) -> Words:
        words: Words = ("TIMEOUT", self.number(1, 5, 1000)) if chance(self.draw, 25) else ()
        return (*words, "PRIORITY", self.level()) if chance(self.draw, 10) else words

    def level(self) -> Word:
        return self.often(("low", "normal", "high"), ("", "x", 3), 6)

    def case(self, word: str) -> str:
        return word.lower() if chance(self.draw, 10) else word

    # ---- tensors -----------------------------------------------------------------------------------------------------

    def tensorset(self, key: Word) -> Words:
        dtype = str(self.often(TYPES, ("HALF", "", "float", "COMPLEX64"), 4))
        shape = self.draw(st.sampled_from([(1, 2), (3, 2), (2,), (1,), (3,), (2, 1, 3), (1,) * 40, (100, 100)]))
        count, words = int(np.prod(shape)), ("AI.TENSORSET", key, dtype, *shape)
        if chance(self.draw, 5):
            return (*words[:3], *self.some(1, 4, lambda: one_of(self.draw, BAD_NUMBERS)), *self.data(dtype, 2))
        return (*words, *self.data(dtype, count))

    def data(self, dtype: str, count: int) -> Words:
        how = self.draw(st.sampled_from(["", "VALUES", "BLOB", "BLOB", "RAW", "FROM"]))
        if how == "FROM":
            return (how, *self.source())
        if how == "RAW" and count <= 6:
            return (how, *[one_of(self.draw, ("", b"a\0b", b"\0", "|>", "BLOB")) for _ in range(count)])
        if how == "VALUES" and count <= 6:
            values = ("a", "", "long" * 9, 7) if dtype == "STRING" else (0, 1, 0, 1, 5, -3, "1.5", "1e300", 300, "x")
            return (how, *[one_of(self.draw, values) for _ in range(count)])
        if how == "BLOB":
            bits = rdb.ELEMENT_TYPES.get(dtype, (0, 32))[1]
            filling = b"\0" if dtype in ("STRING", "BOOL") else self.draw(st.sampled_from([b"\0", b"\1", b"\xff"]))
            return (how, filling * (count * bits // 8 + (chance(self.draw, 5) and 1)))
        return ()

    def source(self) -> Words:
        """What follows FROM."""
        fields: Words = ("FIELDS", *self.counted(self.some(1, 3, lambda: self.often(("a", "b", "z")))))
        given: Words = ("COUNT", self.number(1, 2, 100)) if chance(self.draw, 30) else ()
        default: Words = ("DEFAULT", self.often((0, "nan", 1.5))) if chance(self.draw, 50) else ()
        words = [
            ("HASH", self.key(("hash",)), *fields),
            ("HASHES", *self.counted(self.some(1, 3, lambda: self.key(("hash",)))), *fields),
            ("STRING", self.key(("string", "hash"))),
            ("LIST", self.key(("numbers", "list")), *given),
            ("STREAM", self.key(("stream",)), "FIELD", self.often(("a", "z")), *given),
        ]
        return (*one_of_words(self.draw, words), *default)

    def tensorget(self, key: Word) -> Words:
        words = self.draw(
            st.sampled_from([(), ("META",), ("BLOB",), ("VALUES",), ("META", "VALUES"), ("META", "BLOB"), ("RAW",)])
        )
        return ("AI.TENSORGET", key, *words)

    def hashset(self, names: Sequence[str]) -> Words:
        words: Words = ("AI.HASHSET", self.key(("hash", "out")))
        for _ in range(self.draw(st.integers(1, 3))):
            form: Words = ("AS", self.often(("BLOB", "BLOB", "NUMBER", "TEXT", "ARGMAX")))
            words += (self.often(("a", "f")), self.key(names), *(form if chance(self.draw, 80) else ()))
        return words

    # ---- models and scripts ------------------------------------------------------------------------------------------

    def batching(self) -> Words:
        if not chance(self.draw, 40):
            return ()
        words: Words = ("BATCHSIZE", self.number(0, 1, 2, 8))
        if chance(self.draw, 50):
            words += ("MINBATCHSIZE", self.number(1, 2, 5, 100))
            words += ("MINBATCHTIMEOUT", self.often(SHORT, (0, -1, "", "x", "1.5"), 6))
        return words

    def modelstore(self) -> Words:
        old = chance(self.draw, 20)
        backend = str(self.often(("ONNX", "ONNX", "TORCH"), ("TF", "TFLITE", "ONYX", "onnx", ""), 6))
        blobs: dict[str, Sequence[bytes]] = {
            "ONNX": (models.onnx_add(), models.onnx_mul(), models.onnx_total(), models.onnx_split3()),
            "TORCH": (models.torch_module(models.Add), models.torch_module(models.SumAndProduct)),
        }
        blob = self.draw(st.sampled_from(blobs.get(backend, (b"blob",))))
        if chance(self.draw, 8):
            blob = self.draw(st.sampled_from([b"", b"\0", blob[:-9], blob[9:], b"not a model"]))
        tag: Words = ("TAG", self.often(("tag", ""), ABSENT)) if chance(self.draw, 20) else ()
        nodes: Words = ()
        if backend == "TF" or chance(self.draw, 4):
            inputs, outputs = self.some(1, 3, lambda: "a"), self.some(1, 2, lambda: "b")
            nodes = ("INPUTS", *(inputs if old else self.counted(inputs)))
            nodes += ("OUTPUTS", *(outputs if old else self.counted(outputs)))
        pieces: Words = (blob[:100], blob[100:]) if chance(self.draw, 10) else (blob,)
        key = self.key((*MODELS, *OUTPUTS[:2]))
        words = (self.case("AI.MODELSET" if old else "AI.MODELSTORE"), key, backend, self.device(), *tag)
        return (*words, *self.batching(), *self.warmup(), *nodes, "BLOB", *pieces)

    def warmup(self) -> Words:
        if not chance(self.draw, 10):
            return ()
        dimensions = [self.often((0, 1, 2), BAD_NUMBERS, 10) for _ in range(2)]
        shapes = [
            word for dimension in dimensions for word in (self.often(("FLOAT", "INT64"), ("STRING", "X")), dimension, 2)
        ]
        return ("WARMUP", self.often((2, 2, 1), BAD_NUMBERS), *shapes)

    def modelconfig(self) -> Words:
        names = ["MAXQUEUE", "TIMEOUT", "CACHE", "BATCHSIZE", "PRIORITY"]
        options = self.some(1, 3, lambda: self.draw(st.sampled_from(names)))
        limits = [
            (option, self.level() if option == "PRIORITY" else self.often((0, 1, 2, 8, 100), BAD_NUMBERS, 4))
            for option in options
        ]
        return (self.case("AI.MODELCONFIG"), self.key(MODELS), *(word for limit in limits for word in limit))

    def device(self) -> Word:
        return self.often(
            ("CPU", "CPU", "cpu", "CPU:1"), ("GPU", "GPU:0", "CPU:", "CPU:x", "cpu:12345678", "TPU", ""), 5
        )

    def scriptstore(self) -> Words:
        key, device = self.key((*SCRIPTS, *OUTPUTS[:2])), self.device()
        if chance(self.draw, 25):
            return ("AI.SCRIPTSET", key, device, "SOURCE", self.often((scripts.OLD,), ("", "def", b"\xff")))
        source = self.often(
            (samples.SOURCE, scripts.function("add", "return tensors[0]")), ("", "x = 1", "def f(", b"\0")
        )
        points = self.some(1, 2, lambda: self.often(("add",), ("", "none", "double"), 20))
        return ("AI.SCRIPTSTORE", key, device, "ENTRY_POINTS", *self.counted(points), "SOURCE", source)

    def inputs_of(self, model: Word, names: Sequence[str]) -> Words:
        low, high = (2, 2) if model in (*ADDERS, "two", "sequence") else (1, 1)
        if chance(self.draw, 6):
            low, high = 0, 4
        return self.some(low, high, lambda: self.key(names))

    def outputs_of(self, model: Word, names: Sequence[str]) -> Words:
        count = {"two": 2, "split": 3, "sequence": 2}.get(str(model), 1)
        if chance(self.draw, 6):
            count = self.draw(st.integers(0, 4))
        return tuple(self.key(names) for _ in range(count))

    def run_model(self, old: bool, inputs: Sequence[str], outputs: Sequence[str], in_dag: bool = False) -> Words:
        model = self.key(MODELS)
        takes, gives = self.inputs_of(model, inputs), self.outputs_of(model, outputs)
        timeout = () if in_dag and not chance(self.draw, 3) else self.timeout()
        if old:
            return (self.case("AI.MODELRUN"), model, *timeout, "INPUTS", *takes, "OUTPUTS", *gives)
        words = (self.case("AI.MODELEXECUTE"), model, "INPUTS", *self.counted(takes), "OUTPUTS", *self.counted(gives))
        return (*words, *timeout)

    def redis_script(self) -> Words:
        """Keys and arguments for a script that runs a Redis command of ours."""
        keys = self.some(1, 3, lambda: self.key(("string", "x", "out", "add")))
        return ("KEYS", *self.counted(keys), "ARGS", *self.counted(self.inner()))

    def run_script(self, old: bool, inputs: Sequence[str], outputs: Sequence[str], in_dag: bool = False) -> Words:
        timeout = () if in_dag and not chance(self.draw, 3) else self.timeout()
        takes = self.some(1, 3, lambda: self.key(inputs))
        gives = self.some(0, 2, lambda: self.key(outputs))
        if old:
            function = self.often(("add", "addn", "only", "two", "constant", "in_place", "helped"), ("nothing", "no"))
            variadic: Words = ("$",) if chance(self.draw, 20) else ()
            sections: Words = ("INPUTS", *takes[:1], *variadic, *takes[1:], "OUTPUTS", *gives)
            return ("AI.SCRIPTRUN", self.key(("old",)), function, *timeout, *sections)
        script = self.key(SCRIPTS[:3])
        functions: Sequence[Word] = {"redis": tuple(REDIS), "chain": tuple(CHAINED)}.get(str(script), PLAIN)
        words: Words = ("AI.SCRIPTEXECUTE", script, self.often(functions, ("no", "", "helped"), 5))
        if script == "redis":
            words += self.redis_script()
        elif script == "chain" or chance(self.draw, 10):
            words += ("KEYS", *self.counted((self.key(MODELS),)))
        words += ("INPUTS", *self.counted(takes))
        if script != "redis" and chance(self.draw, 30):
            words += (
                "ARGS",
                *self.counted(self.some(1, 3, lambda: self.often(("1", "2", 3), ("", "x", b"\0\xff"), 20))),
            )
        return (*words, "OUTPUTS", *self.counted(gives), *timeout)

    # ---- DAGs --------------------------------------------------------------------------------------------------------

    def dag(self) -> Words:
        old, read_only = chance(self.draw, 30), chance(self.draw, 30)
        name = self.case(("AI.DAGRUN" if old else "AI.DAGEXECUTE") + ("_RO" if read_only else ""))
        words: Words = (name,)
        loaded = tuple(str(self.key(FLOATS)) for _ in range(self.draw(st.integers(0, 3))))
        if loaded:
            words += ("LOAD", *self.counted(loaded))
        names: list[str] = [*(loaded or ("x",)), "a"]
        commands: list[Words] = [("AI.TENSORSET", "a", "FLOAT", 1, 2, "VALUES", 1, 2)]
        for _ in range(self.draw(st.integers(0, 6))):
            kind = self.draw(st.sampled_from(["model", "model", "model", "script", "set", "get", "hash"]))
            fresh = f"n{len(names)}"
            if kind == "model":
                commands.append(self.run_model(old, names, (fresh, *names[-1:]), in_dag=True))
                names.append(fresh)
            elif kind == "script" and (old or not read_only or chance(self.draw, 10)):
                commands.append(self.run_script(old, names, (fresh,), in_dag=True))
                names.append(fresh)
            elif kind == "set":
                commands.append(self.tensorset(self.often((fresh, "a"), ABSENT, 4)))
                names.append(fresh)
            elif kind == "hash":
                commands.append(self.hashset(names))
            else:
                commands.append(self.tensorget(self.key(names)))
        if not read_only and chance(self.draw, 60):
            words += ("PERSIST", *self.counted(self.some(1, 2, lambda: self.key(names[-2:]))))
        if not old and (len(words) == 1 or chance(self.draw, 20)):
            words += ("ROUTING", self.often(("x", "{x}", "out")))
        words += self.timeout()
        if chance(self.draw, 3):
            commands.append(one_of_words(self.draw, [(), ("AI.INFO", "add"), ("PING",), ("AI.DAGRUN", "|>")]))
        for command in commands:
            words += ("|>", *self.mangled(command, 3))
        return words

    # ---- everything else ---------------------------------------------------------------------------------------------

    def about(self) -> Words:
        key = self.any_key()
        return one_of_words(
            self.draw,
            [
                ("AI.MODELGET", key, "META"),
                ("AI.MODELGET", key),
                ("AI.MODELGET", key, "BLOB"),
                ("AI.SCRIPTGET", key),
                ("AI.SCRIPTGET", key, "META", "SOURCE"),
                ("AI.MODELDEL", key),
                ("AI.SCRIPTDEL", key),
                ("AI.INFO", key),
                ("AI.INFO", key, "FULL"),
                ("AI.INFO", key, "RESETSTAT"),
                ("AI._MODELSCAN",),
                ("AI._SCRIPTSCAN",),
                ("AI.CONFIG", "MODEL_CHUNK_SIZE", self.number(1, 100, 535822336)),
                ("AI.CONFIG", "GET", self.often(("MODEL_CHUNK_SIZE", "BACKENDSPATH"))),
                (
                    "AI.CONFIG",
                    "LOADBACKEND",
                    self.often(("ONNX", "TORCH", "TF", "X")),
                    self.often(("/dev/null", "none")),
                ),
            ],
        )

    def of_redis(self) -> Words:
        """What Redis itself does with keys."""
        key, other, database = self.any_key(), self.any_key(), self.number(0, 1, 2)
        replace: Words = ("REPLACE",) if chance(self.draw, 70) else ()
        return one_of_words(
            self.draw,
            [
                ("DEL", key, other),
                ("UNLINK", key),
                ("COPY", key, other, *replace),
                ("COPY", key, other, "DB", database, *replace),
                ("RENAME", key, other),
                ("RENAMENX", key, other),
                ("MOVE", key, database),
                ("SWAPDB", database, self.number(0, 1, 2)),
                ("SELECT", database),
                ("DUMP", key),
                ("RESTORE", key, 0, self.draw(st.sampled_from(payloads())), *replace),
                ("RESTORE", key, self.number(1, 1000), self.draw(st.sampled_from(payloads())), *replace),
                ("EXPIRE", key, self.number(0, 1, 100)),
                ("PEXPIRE", key, self.number(1, 5)),
                ("PERSIST", key),
                ("OBJECT", self.often(("ENCODING", "REFCOUNT", "IDLETIME", "FREQ"), ("HELP", "X")), key),
                ("MEMORY", "USAGE", key, "SAMPLES", self.number(0, 1)),
                ("DEBUG", self.often(("OBJECT", "DIGEST-VALUE", "DIGEST")), key),
                ("TYPE", key),
                ("EXISTS", key, other),
                ("SCAN", 0, "TYPE", self.often(("AI_TENSOR", "AI__MODEL", "AI_SCRIPT"))),
                ("KEYS", "*"),
                ("SET", key, "value", "KEEPTTL"),
                ("GET", key),
                ("APPEND", key, "more"),
                ("SORT", key, "BY", "nosort", "GET", "*"),
                ("INFO", "everything"),
                ("INFO", "modules"),
                ("HELLO", self.number(2, 3)),
                ("LATENCY", "RESET"),
                ("SLOWLOG", "GET"),
            ],
        )

    def rare(self) -> Words:
        return one_of_words(
            self.draw,
            [
                ("DEBUG", "RELOAD"),
                ("FLUSHALL", "ASYNC"),
                ("FLUSHALL",),
                ("FLUSHDB", "ASYNC"),
                ("FLUSHDB",),
                ("BGREWRITEAOF",),
                ("BGSAVE",),
                ("RESET",),
            ],
        )

    def tagged(self) -> Words:
        """A command given to another one."""
        command = self.mangled(self.plain(), 15)
        return one_of_words(
            self.draw,
            [
                ("COMMAND", "GETKEYS", *command),
                ("COMMAND", "GETKEYSANDFLAGS", *command),
                ("ACL", "DRYRUN", "default", *command),
                ("EVAL", "return redis.pcall(unpack(ARGV))", 0, *command),
                ("EVAL", "redis.setresp(3); return redis.call(unpack(ARGV))", 0, *command),
                ("EVAL_RO", "return redis.pcall(unpack(ARGV))", 0, *command),
            ],
        )

    def inner(self) -> Words:
        """What a script runs: a command of Redis or of ours."""
        return one_of_words(
            self.draw,
            [
                ("SET", "string", "value"),
                ("GET", "string"),
                ("DEL", "x"),
                ("KEYS", "*"),
                ("AI.TENSORSET", "x", "FLOAT", 2),
                ("AI.TENSORGET", "x", "VALUES"),
                ("AI.MODELDEL", "add"),
                ("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "y", "OUTPUTS", 1, "out"),
                ("MULTI",),
                ("RENAME", "x", "out"),
                ("no such command",),
            ],
        )

    def ours(self) -> Words:
        kind = self.draw(st.integers(0, 15))
        if kind <= 1:
            return self.tensorset(self.key((*TENSORS, *OUTPUTS)))
        if kind <= 3:
            return self.tensorget(self.key((*TENSORS, *OUTPUTS)))
        if kind <= 6:
            return self.run_model(chance(self.draw, 25), (*FLOATS, "three"), OUTPUTS)
        if kind <= 8:
            return self.run_script(chance(self.draw, 25), (*FLOATS, "three"), OUTPUTS)
        if kind <= 12:
            return self.dag()
        if kind == 13:
            if chance(self.draw, 30):
                return self.modelconfig()
            return self.modelstore() if chance(self.draw, 60) else self.scriptstore()
        return self.about()

    def plain(self) -> Words:
        return self.ours() if chance(self.draw, 75) else self.of_redis()

    def mangled(self, words: Words, percent: int) -> Words:
        """With so many percent a word or two are not what they should be."""
        changed = self.changed(words, percent)
        return words if may_wait(changed) else changed

    def changed(self, words: Words, percent: int) -> Words:
        while words and chance(self.draw, percent):
            at = self.draw(st.integers(0, len(words) - 1))
            # The command itself stays: nothing here ends the server.
            how = self.draw(st.sampled_from(["replace", "drop", "double", "swap", "cut"])) if at else "cut"
            if how == "replace":
                words = (*words[:at], one_of(self.draw, WORDS), *words[at + 1 :])
            elif how == "drop":
                words = (*words[:at], *words[at + 1 :])
            elif how == "double":
                words = (*words[:at], words[at], *words[at:])
            elif how == "swap" and at > 1:
                words = (*words[: at - 1], words[at], words[at - 1], *words[at + 1 :])
            else:
                words = words[: max(1, at)]
        return words


def may_wait(words: Words) -> bool:
    """Whether a model is stored whose requests may wait for ever, as without MINBATCHTIMEOUT they are meant to."""
    for at, word in enumerate(words):
        if str(words[0]).upper() == "AI.MODELCONFIG" and str(word).upper().startswith("MINBATCH"):
            return True
        short = any(words[at + 2 : at + 4] == ("MINBATCHTIMEOUT", ms) for ms in SHORT)
        if isinstance(word, str) and word.upper() == "MINBATCHSIZE" and not short:
            return True
    return False


def one_of_words(draw: Draw[Words], items: Sequence[Words]) -> Words:
    return draw(st.sampled_from(items))


@dataclass(frozen=True, slots=True)
class Step:
    """Commands to be sent, one after another; aside: by another client, whose replies nobody waits for meanwhile."""

    commands: tuple[Words, ...]
    aside: bool = False


@st.composite
def steps(draw: Draw) -> Step:  # type: ignore[type-arg]
    grammar = Grammar(draw)
    kind = draw(_ODDS)
    if kind == 90:
        return Step((grammar.rare(),))
    if 91 <= kind < 96:
        inside = tuple(grammar.mangled(grammar.plain(), 10) for _ in range(draw(st.integers(0, 4))))
        watch: tuple[Words, ...] = (("WATCH", grammar.any_key()),) if chance(draw, 30) else ()
        return Step((*watch, ("MULTI",), *inside, ("EXEC",) if chance(draw, 85) else ("DISCARD",)))
    if 84 <= kind < 90:
        return Step((grammar.tagged(),))
    return Step((grammar.mangled(grammar.plain(), 15),), aside=70 <= kind < 84)
