"""TorchScript scripts without a server: a fake Redis answers them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redisai.protocol import Array, Call, Redis, Reply, ScriptSession
from tests.unit.loading import load, load_script, run_in_threads
from tests.unit.test_torch_backend import Divide, Weight, blob

SIGNATURE = "(tensors: List[Tensor], keys: List[str], args: List[str])"
X = np.array([1, 2], np.float32)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class FakeRedis:
    """Answers every command with one reply, and runs models given as sessions."""

    def __init__(self, reply: Reply = None, run: Callable[[Sequence[Array]], Sequence[Array]] | None = None) -> None:
        self.reply = reply
        self.run = run
        self.calls: list[list[bytes]] = []
        self.models: list[tuple[bytes, int]] = []
        self.op = 0

    def call(self, words: Sequence[bytes]) -> Reply:
        self.calls.append(list(words))
        return self.reply

    def run_model(self, key: bytes, inputs: Sequence[Array], noutputs: int, failure: str = "") -> Sequence[Array]:
        self.models.append((key, noutputs))
        assert self.run is not None
        return self.run(inputs)


class BrokenRedis(FakeRedis):
    def call(self, words: Sequence[bytes]) -> Reply:
        raise RuntimeError("Redis command returned an error: WRONGTYPE Operation")


def entry_point(body: str, name: str = "f") -> str:
    return f"def {name}{SIGNATURE}:\n    " + body.replace("\n", "\n    ") + "\n"


def call(
    session: ScriptSession,
    *inputs: Array,
    name: str = "f",
    keys: Sequence[bytes] = (),
    args: Sequence[bytes] = (),
    outputs: int = 1,
    redis: Redis | None = None,
) -> Sequence[Array]:
    return session.run(Call(name, inputs, keys, args, outputs, redis or FakeRedis()))


# ---- calling ---------------------------------------------------------------------------------------------------------


def test_an_entry_point_gets_tensors_keys_and_arguments() -> None:
    session = load_script(entry_point("return tensors[0] * int(args[0]), torch.tensor([len(keys), len(args)])"), "f")
    product, counts = call(session, X, keys=[b"a", b"b"], args=[b"3"], outputs=2)
    np.testing.assert_array_equal(product, X * 3)
    np.testing.assert_array_equal(counts, [2, 1])


@pytest.mark.parametrize(
    "body", ["return tensors", "return [tensors[0]], tensors[1]", "return (tensors[0], tensors[1])"]
)
def test_lists_and_tuples_are_flattened(body: str) -> None:
    outputs = call(load_script(entry_point(body), "f"), X, X + 1, outputs=2)
    np.testing.assert_array_equal(outputs, [X, X + 1])


@pytest.mark.parametrize("body", ["pass", "return None", "return"])
def test_functions_without_outputs(body: str) -> None:
    assert call(load_script(entry_point(body), "f"), outputs=0) == []


OLD = """
def add(a, b):
    return a + b

def addn(a, args: List[Tensor]):
    return a + torch.stack(args).sum()

def optional(a, b: Optional[Tensor] = None, scale: float = 2.0):
    return a * scale if b is None else a + b

def number(a, scale: float):
    return a * scale

def constant():
    return torch.ones(1)
"""


@pytest.mark.parametrize(
    ("name", "count", "result"),
    [("add", 2, 2), ("addn", 3, 3), ("optional", 1, 2), ("optional", 2, 2), ("constant", 0, 1)],
)
def test_the_old_convention(name: str, count: int, result: float) -> None:
    (y,) = call(load_script(OLD), *[np.ones(1, np.float32)] * count, name=name)
    np.testing.assert_array_equal(y, [result])


@pytest.mark.parametrize(("name", "count"), [("add", 1), ("add", 3), ("addn", 0), ("number", 1), ("constant", 1)])
def test_inputs_that_do_not_fit(name: str, count: int) -> None:
    with pytest.raises(ValueError, match="^Wrong number of inputs provided to function: "):
        call(load_script(OLD), *[X] * count, name=name)


def test_only_entry_points_can_be_called_where_there_are_any() -> None:
    source = "def helper(x):\n    return x\n" + entry_point("return helper(tensors[0])")
    np.testing.assert_array_equal(call(load_script(source, "f"), X)[0], X)
    for name in ("helper", "missing"):
        with pytest.raises(ValueError, match=f"^Function does not exist: {name}$"):
            call(load_script(source, "f"), X, name=name)
    call(load_script(source), X, name="helper")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def g(x):\n    return x\n", "Function f does not exist in the given script."),
        ("def f(x):\n    return x\n", "Wrong number of inputs in function f. Expected 3 but was 1"),
        (
            "def f(a, b, c):\n    return a\n",
            f"Wrong inputs type in function f. Expected signature similar to: def f{SIGNATURE}",
        ),
    ],
)
def test_entry_points_are_checked(source: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        load_script(source, "f")
    assert str(error.value) == message


@pytest.mark.parametrize("body", ["return 1", "return args[0]", "return tensors[0], 1", "return {'a': tensors[0]}"])
def test_outputs_that_are_no_tensors(body: str) -> None:
    with pytest.raises(TypeError, match="^Function returned non-tensor values$"):
        call(load_script(entry_point(body)), X, args=[b"a"])


@pytest.mark.parametrize("count", [2, 3])
def test_another_number_of_outputs(count: int) -> None:
    with pytest.raises(ValueError, match="^Function returned unexpected number of outputs - f$"):
        call(load_script(entry_point("return tensors[0]")), X, outputs=count)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return tensors[5]", "list index out of range (line 2, in f)"),
        ('raise ValueError("boom")', "boom (line 2, in f)"),
        ("return torch.tensor(int(args[0]))", "could not convert string to int (line 2, in f)"),
        ("return torch.tensor(float(args[0]))", "could not convert string to float (line 2, in f)"),
        ("assert False", "AssertionError (line 2, in f)"),
    ],
)
def test_errors_say_what_and_where(body: str, message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        call(load_script(entry_point(body)), X, args=[b"x"])
    assert str(error.value) == message


def test_strings_are_refused() -> None:
    with pytest.raises(TypeError, match="no STRING tensors"):
        call(load_script(entry_point("return tensors[0]")), np.array([b"a"], object))


def test_a_source_may_lack_its_last_line_break() -> None:
    load_script("def f(x):\n    return x")


# ---- stored tensors --------------------------------------------------------------------------------------------------

WRITES = [
    "x = tensors[0]\nx /= 255\nreturn x",
    "tensors[0].add_(1)\nreturn tensors[0]",
    "y = tensors[0].view(-1)\ny[0] = 9\nreturn y",
    "for x in tensors:\n    x.zero_()\nreturn tensors[0]",
    "a = torch.stack(tensors)\ntorch.add(a[0], 1, out=tensors[0])\nreturn a[0]",
    "y = helper(tensors)\nreturn y",
]
HELPER = "def helper(tensors: List[Tensor]):\n    return tensors[0].t().mul_(2)\n"


@pytest.mark.parametrize("body", WRITES)
def test_an_input_never_changes(body: str) -> None:
    session = load_script(HELPER + entry_point(body), "f")
    for _ in range(3):
        x = X.copy()
        call(session, x)
        np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("parameters", ["a", "a, b: List[Tensor]", "a: Optional[Tensor]"])
def test_an_input_never_changes_the_old_way(parameters: str) -> None:
    x = X.copy()
    call(load_script(f"def f({parameters}):\n    assert a is not None\n    a /= 2\n    return a\n"), x)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize(
    "body",
    [
        "return tensors[0] + 1",
        'redis.execute("SET", keys[0], "1")\nreturn redisAI.model_execute(keys[0], tensors, 1)[0]',
        "y = tensors[0] / 2\ny += 1\nreturn y",
    ],
)
def test_inputs_are_shared_where_nothing_writes_to_them(body: str) -> None:
    session: Any = load_script(entry_point(body), "f")
    assert not session._functions["f"].copies


@pytest.mark.parametrize("module", [Weight(), torch.nn.Identity(), Divide()])
def test_what_a_model_returned_is_the_scripts_own(module: torch.nn.Module) -> None:
    model = load("TORCH", blob(module))
    session = load_script(entry_point("y = redisAI.model_execute(keys[0], tensors, 1)[0]\ny += 1\nreturn y"), "f")
    x = X.copy()
    results = [call(session, x, keys=[b"m"], redis=FakeRedis(run=model.run))[0] for _ in range(2)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(x, X)


# ---- Redis -----------------------------------------------------------------------------------------------------------

DESCRIBE = """
def text(value: Any) -> str:
    if isinstance(value, str):
        return "s:" + value
    if isinstance(value, int):
        return "i:" + str(value)
    if isinstance(value, NoneType):
        return "none"
    return "l:" + str(len(redis.asList(value)))

def described(value: Any) -> str:
    shown = text(value)
    if isinstance(value, List[Any]):
        for item in value:
            shown += " " + text(item)
            if isinstance(item, List[Any]):
                for inner in item:
                    shown += " " + text(inner)
    return shown

def as_tensor(text: str):
    return torch.tensor([ord(char) for char in list(text)], dtype=torch.uint8)
"""
REPLY = load_script(DESCRIBE + entry_point("return as_tensor(described(redis.execute(args[0], args[1:])))"), "f")


@pytest.mark.parametrize(
    ("reply", "described"),
    [
        (None, b"none"),
        (b"OK", b"s:OK"),
        (b"", b"s:"),
        (bytes(range(256)), b"s:" + bytes(range(256))),
        (-(2**63), b"i:-9223372036854775808"),
        (0, b"i:0"),
        ([], b"l:0"),
        ([b"a", 1, None], b"l:3 s:a i:1 none"),
        ([[], [b"x\xff"], [[1], None], 3], b"l:4 l:0 l:1 s:x\xff l:2 l:1 none i:3"),
    ],
)
def test_replies(reply: Reply, described: bytes) -> None:
    (y,) = call(REPLY, args=[b"GET"], redis=FakeRedis(reply))
    assert y.tobytes() == described


@pytest.mark.parametrize(
    "word", [b"plain", b"", b"two\nlines\t", bytes(range(256)), "h\u00e9".encode(), b"\xff", b"\0"]
)
def test_words_of_any_bytes(word: bytes) -> None:
    redis = FakeRedis(1)
    call(REPLY, args=[b"SET", word, b"x", word], redis=redis)
    assert redis.calls == [[b"SET", word, b"x", word]]


def test_words_separately_or_as_a_list() -> None:
    redis = FakeRedis()
    body = 'redis.execute("PING")\nredis.execute("SET", keys[0], str(3))\nredis.execute("MGET", keys)'
    call(load_script(entry_point(body)), keys=[b"a", b"\xff"], outputs=0, redis=redis)
    assert redis.calls == [[b"PING"], [b"SET", b"a", b"3"], [b"MGET", b"a", b"\xff"]]


def test_a_call_is_made_though_nobody_uses_what_it_returns() -> None:
    redis = FakeRedis(b"same", run=lambda inputs: inputs)
    body = 'redis.execute("GET", "a")\n' * 2 + 'redisAI.model_execute("m", tensors, 1)\nreturn tensors[0]'
    session = load_script(entry_point(body))
    for _ in range(3):
        call(session, X, redis=redis)
    assert len(redis.calls) == 6 and len(redis.models) == 3


def test_an_error_reply_ends_the_script() -> None:
    session = load_script(entry_point('redis.execute("GET", "a")\nreturn tensors[0]'))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="^Redis command returned an error: WRONGTYPE Operation$"):
            call(session, X, redis=BrokenRedis())
    call(session, X)


def test_a_list_is_asked_of_what_is_none() -> None:
    with pytest.raises(RuntimeError, match="redis.asList: the reply is no array"):
        call(load_script(entry_point('redis.asList(redis.execute("GET", "a"))')), redis=FakeRedis(b"x"))


@pytest.mark.parametrize("key", [b"model", b"\xff\0"])
def test_models(key: bytes) -> None:
    redis = FakeRedis(run=lambda inputs: [inputs[0].T * 2, np.array(3, np.int64)])
    session = load_script(entry_point("return redisAI.model_execute(keys[0], tensors, 2)"), "f")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    doubled, three = call(session, x, keys=[key], outputs=2, redis=redis)
    np.testing.assert_array_equal(doubled, x.T * 2)
    assert three.shape == () and three == 3
    assert redis.models == [(key, 2)]


def test_model_outputs_that_torch_cannot_hold() -> None:
    output = np.array([b"a"], object)
    session = load_script(entry_point("return redisAI.model_execute(keys[0], tensors, 1)"), "f")
    with pytest.raises(RuntimeError, match="output 0 of the model is no tensor of numbers"):
        call(session, X, keys=[b"m"], redis=FakeRedis(run=lambda inputs: [output]))


def test_only_the_thread_of_a_run_may_call() -> None:
    errors: list[str] = []

    def other() -> None:
        try:
            torch.ops.redisai.call(["GET", "a"], [])
        except RuntimeError as error:
            errors.append(str(error))

    class Waiting(FakeRedis):
        def call(self, words: Sequence[bytes]) -> Reply:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return None

    call(load_script(entry_point('redis.execute("GET", "a")')), outputs=0, redis=Waiting())
    other()
    assert len(errors) == 2 and all("only scripts can call Redis" in error for error in errors)


class CallsRedis(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.ops.redisai.call(["FLUSHALL"], [])
        return x


def test_models_may_not_call() -> None:
    model = load("TORCH", blob(CallsRedis()))
    redis = FakeRedis(run=model.run)
    with pytest.raises(RuntimeError, match="only scripts can call Redis"):
        model.run([X])
    session = load_script(entry_point("return redisAI.model_execute(keys[0], tensors, 1)"), "f")
    with pytest.raises(RuntimeError, match="only scripts can call Redis"):
        call(session, X, keys=[b"m"], redis=redis)
    assert redis.calls == []


def test_threads_have_their_own_redis() -> None:
    session = load_script(entry_point('for i in range(50):\n    redis.execute("GET", args[0])'), "f")
    fakes = [FakeRedis() for _ in range(4)]

    def run(number: int) -> None:
        call(session, args=[b"%d" % number], outputs=0, redis=fakes[number])

    run_in_threads(4, run)
    assert [fake.calls for fake in fakes] == [[[b"GET", b"%d" % number]] * 50 for number in range(4)]


# ---- what scripts must not reach -------------------------------------------------------------------------------------

ATTACKS = """
torch.os.system("touch trap")
torch.sys.exit()
torch.load("trap")
torch.save(x, "trap")
x.save("trap")
getattr(x, "sa" "ve")("trap")
torch.from_file("trap", True, 10)
torch.hub.load("a", "b")
torch.ops.load_library("trap")
torch.ops.aten.save(x, "trap")
torch.ops.aten.from_file("trap", True, 10)
torch.jit.load("trap")
torch.jit.script(x)
torch.jit.fork(f, x)
torch.utils.cpp_extension.load("a")
torch._C._jit_get_operation("aten::add")
torch.classes.load_library("trap")
torch.distributed.init_process_group()
torch.multiprocessing.spawn(x)
torch.package
torch.torch.os
torch.Tensor.__init__
torch.nn.Module
torch.nn.functional.torch.os
torch.nn.functional.math.pi
torch.nn.functional.relu.__globals__
torch.nn.functional.handle_torch_function(f, (x,), x)
torch.__dict__
torch.__class__
torch.__getattribute__("os")
torch.__loader__
torch.names
torch.set_grad_enabled(True)
torch._unsafe_index(x, [x])
torch.sparse_coo_tensor(torch.tensor([[9]]), x, [1])
torch.segment_reduce(x, "sum", lengths=x, unsafe=True)
torch.embedding_dense_backward(x, x, 1, 1, False)
x._unsafe_view([2])
x._test_warn_in_autograd()
torch.redisai.call(["a"], [[1]])
redis.execute.__globals__
redis._call
redisAI.torch
_call(["a"], [[1]])
_run_model("", [[1]], [x], 1)
__import__("os")
open("trap", "w")
eval("1")
exec("1")
globals()
vars(x)
dir(x)
getattr(torch, "os")
x.__class__
x.__reduce_ex__(2)
x.numpy()
x.data_ptr()
os.system("touch trap")
math.pi
builtins.open("trap")
Exception.__subclasses__()
(lambda: 1)()
().__class__.__base__.__subclasses__()
str(torch)
f"{torch.os}"
type(x)
object()
""".strip().splitlines()


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in (
        f"def f(x):\n    return {attack}\n",
        f"def f(x):\n    assert x is None, {attack}\n    return x\n",
        f"def f(x):\n    return [{attack} for i in range(1)]\n",
        f"def f(x, y: Any = {attack}):\n    return x\n",
        f"def f(x, y: {attack}):\n    return x\n",
        f"def f(x) -> {attack}:\n    return x\n",
        f"@{attack}\ndef f(x):\n    return x\n",
    ):
        with pytest.raises(Exception):  # noqa: B017 - the compiler has several
            load_script(source)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "default",
    [
        "torch.zeros(3)",
        "torch.zeros (3)",
        "(torch.zeros)(3)",
        "torch.zeros \\\n (3)",
        "torch.zeros # =\n (3)",
        "[torch.zeros(3)]",
    ],
)
@pytest.mark.parametrize(
    "source",
    [
        "def f(x, y: Any = {}):\n    return x\n",
        "def f(x):\n    def g(y: Any = {}):\n        return 1\n    return x\n",
    ],
)
def test_defaults_call_nothing(source: str, default: str) -> None:
    """The compiler runs them."""
    with pytest.raises(ValueError, match="the default value of a parameter cannot call a function"):
        load_script(source.format(default))


@pytest.mark.parametrize("default", ["1", "'a'", "[1, 2]", "(1, 2)", "torch.pi", "None", "-1.5"])
def test_defaults_may_be_values(default: str) -> None:
    load_script(f"def f(x, y: Any = {default}):\n    return x\n")


NESTED = {
    "parentheses": lambda n: "(" * n + "x" + ")" * n,
    "signs": lambda n: "-" * n + "x",
    "sums": lambda n: "x" + "+x" * n,
    "conditions": lambda n: "x if True else " * n + "x",
}


@pytest.mark.parametrize("kind", NESTED)
def test_deep_sources_do_not_crash(kind: str) -> None:
    for depth in (1000, 100_000):
        try:
            load_script(f"def f(x):\n    return {NESTED[kind](depth)}\n")
        except Exception as error:
            assert depth > 1000, error


LANGUAGE = """
def helper(x: Tensor, times: int = 2) -> Tensor:
    for i in range(times):
        x = torch.nn.functional.relu(x) + i
    return x

def f(tensors: List[Tensor], keys: List[str], args: List[str]):
    x = tensors[0].to(torch.float32)
    names: Dict[str, int] = {}
    for index, key in enumerate(keys):
        names[key] = index
    boxes: List[Tuple[int, float]] = [(1, 2.0), (3, 4.0)]
    maybe: Optional[int] = None
    if maybe is None:
        maybe = len(names)
    y = torch.cat([helper(x), torch.zeros([maybe], dtype=torch.float, device=torch.device("cpu"))])
    y = torch.upsample_nearest1d(y.view(1, 1, -1), [8], None)
    z = torch.nn.functional.interpolate(y, size=4, mode="linear", align_corners=False)
    while z.numel() < 10:
        z = torch.stack([z, z])
    print("shape", z.shape, "{}".format(boxes[0][0]), "%d" % len(keys))
    values: List[float] = z.flatten().tolist()
    norm = torch.norm(z) + torch.einsum("i,i->", x, x) + torch.linalg.norm(x) + torch.fft.fft(x).abs().sum()
    if not bool(torch.isnan(norm)):
        return norm, torch.tensor(values).sum() * torch.pi
    raise RuntimeError("not a number")
"""


def test_the_language() -> None:
    first, second = call(load_script(LANGUAGE, "f"), X, keys=[b"a", b"b"], outputs=2)
    assert np.isfinite(first) and np.isfinite(second)


def test_gradients_stay_off() -> None:
    call(load_script(entry_point("return tensors[0].requires_grad_(True) * 2")), X)


def test_a_call_is_quick() -> None:
    """10 us here; the bound only catches what is wrong by orders of magnitude."""
    session = load_script(entry_point('redis.execute("SET", keys[0], args[0])'), "f")
    redis = FakeRedis(b"OK")
    for _ in range(10):
        call(session, keys=[b"k"], args=[b"v"], outputs=0, redis=redis)
    begin = time.perf_counter()
    for _ in range(200):
        call(session, keys=[b"k"], args=[b"v"], outputs=0, redis=redis)
    assert (time.perf_counter() - begin) / 200 < 0.005
    begin = time.perf_counter()
    call(session, keys=[b"k"], args=[b"\xff" * 200_000], outputs=0, redis=redis)
    assert time.perf_counter() - begin < 5
