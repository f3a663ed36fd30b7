"""TorchScript for the tests: scripts as AI.SCRIPTSTORE takes them, and the words of the commands that run them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from testkit.wire import Error, Wire, Word

SIGNATURE = "(tensors: List[Tensor], keys: List[str], args: List[str])"

# How the error of a redis.execute begins, and one of them whole.
FAILED = "ERR Redis command returned an error: "
UNDECLARED = FAILED + "the script touches a key that was not declared with KEYS"
# Why a command may not run in a script, in Redis's words and in ours.
NOT_IN_SCRIPTS = re.compile(
    re.escape(FAILED)
    + r"(command '[a-z|]+' is not allowed on script mode|a blocking command cannot be used in a script"
    r"|Cannot run RedisAI command within a transaction or a LUA script)"
)

# Functions of one line or two: what stands after the colon, by name.
FUNCTIONS: dict[str, str] = {
    "add": "return tensors[0] + tensors[1]",
    "total": "return torch.stack(tensors).sum()",
    "count": "return torch.tensor([len(tensors), len(keys), len(args)])",
    "two": "return tensors[0] + 1, tensors[0] * 2",
    "listed": "return [tensors[0] + 1, tensors[0] * 2]",
    "nested": "return [tensors[0]], (tensors[0] + 1, tensors[0] * 2)",
    "nothing": "pass",
    "scaled": "return tensors[0] * float(args[0]) + int(args[1])",
    "text": "return args[0]",
    "number": "return 3",
    "mixed": 'return tensors[0], "text"',
    "none": "return None",
    "fails": 'assert len(tensors) > 100, "first line\\n   second line"\n    return tensors[0]',
    "out_of_range": "return tensors[100]",
    "not_a_number": "return torch.tensor(int(args[0]))",
    "shapes": "return torch.cat(tensors)",
    "complex": "return torch.complex(tensors[0], tensors[0])",
    "view": "return tensors[0].t()",
    "itself": "return tensors[0]",
    "empty": "return tensors[0][0:0]",
    "scalar": "return tensors[0].sum()",
    "uses_helper": "return helped(tensors[0], 3)",
}
HELPER = "def helped(x: Tensor, times: int) -> Tensor:\n    for i in range(times):\n        x = x + 1\n    return x\n"

OLD = """
def add(a, b):
    return a + b

def addn(a, args: List[Tensor]):
    return a + torch.stack(args).sum()

def only(args: List[Tensor]):
    return torch.stack(args).sum()

def two(a):
    return a + 1, a * 2

def constant():
    return torch.tensor([7.0])

def in_place(a):
    a += 1
    return a

def helped(a):
    return add(a, a)

def nothing(a):
    pass
"""

# What a value is, as text: s<bytes>:<text>, i:<number>, f:<number>, none, l<length>.
DESCRIBE = """
def described(value: Any) -> str:
    if isinstance(value, str):
        return "s" + str(len(value)) + ":" + value
    if isinstance(value, int):
        return "i:" + str(value)
    if isinstance(value, float):
        return "f:" + str(value)
    if str(value) == "None":
        return "none"
    return "l" + str(len(redis.asList(value)))

def as_tensor(text: str) -> Tensor:
    return torch.tensor([ord(text[i]) for i in range(len(text))], dtype=torch.uint8)
"""

# Runs the command in args and gives what came back; how deep the reply nests is told in the function's name.
REDIS = (
    DESCRIBE
    + """
def reply(tensors: List[Tensor], keys: List[str], args: List[str]):
    return as_tensor(described(redis.execute(args[0], args[1:])))

def items(tensors: List[Tensor], keys: List[str], args: List[str]):
    text = ""
    for item in redis.asList(redis.execute(args[0], args[1:])):
        text += described(item) + " "
    return as_tensor(text)

def nested(tensors: List[Tensor], keys: List[str], args: List[str]):
    text = ""
    for outer in redis.asList(redis.execute(args[0], args[1:])):
        text += "["
        for inner in redis.asList(outer):
            text += described(inner) + " "
        text += "] "
    return as_tensor(text)

def run(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute(args[0], args[1:])

def then(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("SET", keys[0], "before")
    redis.execute(args[0], args[1:])
    redis.execute("SET", keys[1], "after")

def without_words(tensors: List[Tensor], keys: List[str], args: List[str]):
    return as_tensor(described(redis.execute("PING")))

def copied(tensors: List[Tensor], keys: List[str], args: List[str]):
    value = redis.execute("GET", keys[0])
    assert isinstance(value, str)
    redis.execute("SET", keys[1], value)
    return as_tensor(value)

def given(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("SET", keys[0], args[0])
    return as_tensor(keys[0]), as_tensor(args[0])

def all_bytes(tensors: List[Tensor], keys: List[str], args: List[str]):
    text = ""
    for i in range(256):
        text += chr(i)
    redis.execute("SET", keys[0], text)
    return as_tensor(text)

def gone_on(tensors: List[Tensor], keys: List[str], args: List[str]):
    # Says that it has started, waits for a word, and then writes on. Bounded, so that no server is left with it.
    redis.execute("SET", keys[0], "started")
    for i in range(1000000):
        if described(redis.execute("GET", keys[1])) != "none":
            break
    redis.execute("SET", keys[2], "done")

def for_ever(tensors: List[Tensor], keys: List[str], args: List[str]):
    x = torch.eye(8)
    while bool(x.sum() > 0):
        x = torch.relu(x)
    return x

def increment(tensors: List[Tensor], keys: List[str], args: List[str]):
    for i in range(int(args[0])):
        redis.execute("INCR", keys[0])
"""
)
REDIS_ENTRY_POINTS = (
    *("reply", "items", "nested", "run", "then", "without_words", "copied", "given", "all_bytes", "gone_on"),
    *("for_ever", "increment"),
)

MODELS = """
def one(tensors: List[Tensor], keys: List[str], args: List[str]):
    return redisAI.model_execute(keys[0], tensors, 1)

def counted(tensors: List[Tensor], keys: List[str], args: List[str]):
    return redisAI.model_execute(keys[0], tensors, int(args[0]))

def named(tensors: List[Tensor], keys: List[str], args: List[str]):
    return redisAI.model_execute(args[0], tensors, 1)

def chained(tensors: List[Tensor], keys: List[str], args: List[str]):
    x = tensors[0]
    for key in keys:
        x = redisAI.model_execute(key, [x, x], 1)[0]
    return x

def spoilt(tensors: List[Tensor], keys: List[str], args: List[str]):
    out = redisAI.model_execute(keys[0], tensors, 1)[0]
    out += 1
    return out
"""
MODELS_ENTRY_POINTS = ("one", "counted", "named", "chained", "spoilt")


def function(name: str, body: str) -> str:
    return f"def {name}{SIGNATURE}:\n    {body}\n"


SOURCE = HELPER + "\n".join(function(name, body) for name, body in FUNCTIONS.items())


def store_command(
    key: Word, source: str, entry_points: Sequence[str], device: str = "CPU", tag: Word | None = None
) -> tuple[Word, ...]:
    tagged: tuple[Word, ...] = () if tag is None else ("TAG", tag)
    return ("AI.SCRIPTSTORE", key, device, *tagged, "ENTRY_POINTS", len(entry_points), *entry_points, "SOURCE", source)


def store(wire: Wire, key: Word, source: str, entry_points: Sequence[str], device: str = "CPU") -> None:
    assert wire.ask(*store_command(key, source, entry_points, device)) == b"OK"


def store_plain(wire: Wire, key: Word = "s") -> None:
    store(wire, key, SOURCE, tuple(FUNCTIONS))


def store_old(wire: Wire, key: Word = "old") -> None:
    assert wire.ask("AI.SCRIPTSET", key, "CPU", "SOURCE", OLD) == b"OK"


def store_redis(wire: Wire, *functions: str, key: Word = "s") -> None:
    """These functions of REDIS, or all; each more takes the compiler 10 ms."""
    parts = {part[4 : part.index("(")]: part for part in REDIS.strip().split("\n\n")}
    source = DESCRIBE + "\n\n".join(parts[name] for name in functions) if functions else REDIS
    store(wire, key, source, functions or REDIS_ENTRY_POINTS)


def store_models(wire: Wire, key: Word = "s") -> None:
    store(wire, key, MODELS, MODELS_ENTRY_POINTS)


def execute(
    key: Word,
    function: str,
    keys: Sequence[Word] = (),
    inputs: Sequence[Word] = (),
    args: Sequence[Word] = (),
    outputs: Sequence[Word] = (),
) -> tuple[Word, ...]:
    """AI.SCRIPTEXECUTE with the sections that are not empty; KEYS or INPUTS must be there, so one may be made up."""
    words: list[Word] = ["AI.SCRIPTEXECUTE", key, function]
    if not inputs and not keys:
        keys = ["no such key"]
    for section, given in (("KEYS", keys), ("INPUTS", inputs), ("ARGS", args), ("OUTPUTS", outputs)):
        if given:
            words += [section, len(given), *given]
    return tuple(words)


def is_denied(reply: object) -> bool:
    """A command of the script was refused to its caller; servers differ in the words."""
    return isinstance(reply, Error) and bool(re.match(f"{FAILED}.*(acl verification failed|permission)", reply))


def values(wire: Wire, key: Word) -> Any:
    return wire.ask("AI.TENSORGET", key, "VALUES")


def text_of(wire: Wire, key: Word) -> bytes:
    """The text that a script has given as a tensor of bytes."""
    return bytes(wire.ask("AI.TENSORGET", key, "BLOB"))
