"""The module redisAI of flows, on a real server: its functions, its errors, and that a run is one command."""

from __future__ import annotations

import asyncio
import math
import random
import struct
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from flows.redisai import make_module
from testkit import graph_def, models
from testkit.dtypes import DTYPES, REALS, limits
from testkit.wire import Error, Wire, Word

TWO_BY_TWO = struct.pack("<4f", 1, 2, 3, 4)
MINUS = b"".join(
    graph_def.node(name, op, inputs)
    for name, op, inputs in [("a", "Placeholder", ""), ("b", "Placeholder", ""), ("c", "Sub", "a b"), ("d", "Neg", "a")]
)
SOURCE = """
def add(tensors: List[Tensor], keys: List[str], args: List[str]):
    return torch.stack(tensors).sum(0)

def pair(tensors: List[Tensor], keys: List[str], args: List[str]):
    return torch.ones([1]), torch.zeros([2])
"""


class CommandError(Exception):
    pass


def checked(reply: Any) -> Any:
    """As hiredis gives it: error replies inside lists are exceptions."""
    if isinstance(reply, list):
        return [checked(each) for each in reply]
    return CommandError(str(reply)) if isinstance(reply, Error) else reply


class Caller:
    """A connection as flows have it, that remembers what it was asked."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.asked: list[tuple[Word, ...]] = []

    def call(self, *words: Word) -> Any:
        self.asked.append(words)
        reply = checked(self.wire.ask(*words))
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def call_async(self, *words: Word) -> Any:
        return self.call(*words)

    def names(self) -> list[Word]:
        return [words[0] for words in self.asked]


@pytest.fixture
def caller(wire: Wire) -> Caller:
    return Caller(wire)


@pytest.fixture
def ai(caller: Caller) -> Any:
    return make_module(caller.call, caller.call_async, lambda: 0)


def floats(ai: Any, *values: float) -> Any:
    return ai.createTensorFromValues("FLOAT", [len(values)], values)


# ---- tensors


@pytest.mark.parametrize("name", [name for name in DTYPES if name != "STRING"])
def test_values_become_what_the_command_makes_of_them(wire: Wire, ai: Any, name: str) -> None:
    dice = random.Random(name)
    values: list[Any]
    if name in REALS:
        bits = [struct.unpack("<d", dice.randbytes(8))[0] for _ in range(300)]
        scaled = [dice.uniform(-1, 1) * 2.0 ** dice.randint(-150, 130) for _ in range(700)]
        near = [dice.randint(0, 2**12) * 2.0 ** dice.randint(-30, -8) for _ in range(500)]  # ties among them
        values = [value for value in bits if not math.isnan(value)] + scaled + near
        values += [0.0, -0.0, math.inf, -math.inf, 65504, 65520, 1e300, 5e-324, 3.3895314e38, 3.4e38, 7]
    elif name == "BOOL":
        values = [True, False, 0, 1]
    else:
        low, high = limits(name)
        values = [low, high, 1, 0, 100.0, np.int64(5)]
    made = ai.createTensorFromValues(name.lower(), [len(values), 1], values)
    words = [repr(value) if isinstance(value, float) else str(int(value)) for value in values]
    assert (
        wire.ask("AI.TENSORSET", "x", name, len(values), 1, "VALUES", *(w.removesuffix(".0") for w in words)) == b"OK"
    )
    data = wire.ask("AI.TENSORGET", "x", "BLOB")
    assert ai.tensorGetDataAsBlob(made) == data and ai.tensorGetDims(made) == (len(values), 1)
    expected = np.frombuffer(data, DTYPES[name].numpy).astype(float if name in REALS else object)
    flat = ai.tensorToFlatList(made)
    assert flat == list(expected) and {type(value) for value in flat} == {float if name in REALS else int}
    assert ai.tensorToFlatList(ai.createTensorFromBlob(name, [len(values)], data)) == flat


def test_floats_come_back_as_they_were(ai: Any) -> None:
    dice = random.Random(1)
    values = [dice.gauss(0, 1e10) for _ in range(1000)]
    ai.setTensorInKey("x", ai.createTensorFromValues("DOUBLE", [1000], values))
    assert ai.tensorToFlatList(ai.getTensorFromKey("x")) == values
    singles = [struct.unpack("<f", struct.pack("<f", value))[0] for value in values]
    ai.setTensorInKey("x", ai.createTensorFromValues("FLOAT", (10, 100), singles))
    assert ai.tensorToFlatList(ai.getTensorFromKey("x")) == singles
    assert math.isnan(ai.tensorToFlatList(floats(ai, math.nan))[0])


@pytest.mark.parametrize("blob", [TWO_BY_TWO, bytearray(TWO_BY_TWO), memoryview(TWO_BY_TWO)], ids=["0", "1", "2"])
def test_blob(wire: Wire, ai: Any, blob: Any) -> None:
    tensor = ai.createTensorFromBlob("FLOAT", (2, 2), blob)
    ai.setTensorInKey("x", tensor)
    assert wire.ask("AI.TENSORGET", "x", "META", "BLOB") == [b"dtype", b"FLOAT", b"shape", [2, 2], b"blob", TWO_BY_TWO]
    if isinstance(blob, bytearray):
        blob[:] = bytes(16)
    assert ai.tensorToFlatList(tensor) == [1.0, 2.0, 3.0, 4.0]
    data = ai.tensorGetDataAsBlob(tensor)
    assert type(data) is bytearray and data == TWO_BY_TWO


def test_arrays_of_numpy(ai: Any) -> None:
    """A picture as cameras' programs have it, also turned on its side."""
    picture = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert ai.tensorToFlatList(ai.createTensorFromBlob("FLOAT", picture.shape, picture)) == list(range(12))
    assert ai.tensorToFlatList(ai.createTensorFromBlob("FLOAT", [12], picture.T)) == picture.T.ravel().tolist()
    assert ai.tensorToFlatList(ai.createTensorFromValues("FLOAT", [12], picture.ravel())) == list(range(12))
    assert ai.tensorToFlatList(ai.createTensorFromValues("UINT8", [3], b"abc")) == [97, 98, 99]


def test_strings(wire: Wire, ai: Any) -> None:
    texts = ["|>", "häuser", b"\xff\0\1", ""]
    ai.setTensorInKey("x", ai.createTensorFromValues("STRING", [2, 2], texts))
    assert wire.ask("AI.TENSORGET", "x", "RAW") == [b"|>", "häuser".encode(), b"\xff\0\1", b""]
    tensor = ai.getTensorFromKey("x")
    assert ai.tensorToFlatList(tensor) == texts
    with pytest.raises(Exception, match="contains a null character"):
        ai.tensorGetDataAsBlob(tensor)
    tensor = ai.createTensorFromBlob("STRING", [2], b"a\0\0")
    assert ai.tensorToFlatList(tensor) == ["a", ""] and ai.tensorGetDataAsBlob(tensor) == b"a\0\0"
    ai.setTensorInKey("x", ai.createTensorFromValues("STRING", [0], []))
    assert ai.tensorToFlatList(ai.getTensorFromKey("x")) == []


def test_scalars_and_empty_tensors(ai: Any) -> None:
    ai.msetTensorsInKeyspace(
        {"s": ai.createTensorFromValues("INT64", [], [7]), "e": ai.createTensorFromBlob("FLOAT", [2, 0], b"")}
    )
    scalar, empty = ai.mgetTensorsFromKeyspace(["s", "e"])
    assert (ai.tensorGetDims(scalar), ai.tensorToFlatList(scalar)) == ((), [7])
    assert (ai.tensorGetDims(empty), ai.tensorToFlatList(empty)) == ((2, 0), [])


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        ("createTensorFromValues", ("FLOT", [1], [1]), "invalid data type"),
        ("createTensorFromValues", (1, [1], [1]), "invalid data type"),
        ("createTensorFromValues", ("FLOAT", [-1], [1]), "invalid or negative value found in tensor shape"),
        ("createTensorFromValues", ("FLOAT", [1.5], [1]), "invalid or negative value found in tensor shape"),
        ("createTensorFromValues", ("FLOAT", ["1"], [1]), "invalid or negative value found in tensor shape"),
        ("createTensorFromValues", ("FLOAT", 1, [1]), "a list is expected, not 1"),
        ("createTensorFromValues", ("FLOAT", [2], [1]), "wrong number of values was given"),
        ("createTensorFromValues", ("FLOAT", [2**40, 2**40], [1]), "wrong number of values was given"),
        ("createTensorFromValues", ("FLOAT", [1], 1.0), "a list is expected, not 1.0"),
        ("createTensorFromValues", ("FLOAT", [1], ["1"]), "invalid value"),
        ("createTensorFromValues", ("FLOAT", [1], [None]), "invalid value"),
        ("createTensorFromValues", ("FLOAT", [1], [[1.0]]), "invalid value"),
        ("createTensorFromValues", ("FLOAT", [1], [10**400]), "invalid value"),
        ("createTensorFromValues", ("INT8", [1], [128]), "invalid value"),
        ("createTensorFromValues", ("INT8", [1], [1.5]), "invalid value"),
        ("createTensorFromValues", ("INT8", [1], [math.nan]), "invalid value"),
        ("createTensorFromValues", ("UINT64", [1], [-1]), "invalid value"),
        ("createTensorFromValues", ("BOOL", [1], [2]), "invalid value"),
        ("createTensorFromValues", ("BFLOAT16", [1], ["x"]), "invalid value"),
        ("createTensorFromValues", ("STRING", [1], [1]), "invalid value"),
        ("createTensorFromBlob", ("FLOAT", [1], b"123"), "data length does not match tensor shape and type"),
        ("createTensorFromBlob", ("FLOAT", [1], b"12345"), "data length does not match tensor shape and type"),
        ("createTensorFromBlob", ("FLOAT", [1], 1234), "a blob is bytes or a buffer, not 1234"),
        ("createTensorFromBlob", ("BOOL", [1], b"\2"), "BOOL tensor elements must be 0 or 1"),
        ("createTensorFromBlob", ("STRING", [1], b"a"), "Number of string elements in data blob does not match"),
        ("createTensorFromBlob", ("STRING", [1], b"a\0b\0"), "Number of string elements in data blob does not match"),
        ("tensorToFlatList", (1,), "a tensor is expected, not 1"),
        ("tensorGetDataAsBlob", (b"x",), "a tensor is expected, not b'x'"),
        ("tensorGetDims", (None,), "a tensor is expected, not None"),
        ("setTensorInKey", ("x", 1), "a tensor is expected, not 1"),
        ("setTensorInKey", (1, 1), "the name of a key is text or bytes, not 1"),
        ("msetTensorsInKeyspace", ([],), "a dict of keys and tensors is expected"),
        ("msetTensorsInKeyspace", ({"x": 1},), "a tensor is expected, not 1"),
        ("getTensorFromKey", (None,), "the name of a key is text or bytes, not None"),
        ("getTensorFromKey", ("nothing",), "ERR tensor key is empty or in a different shard"),
        ("mgetTensorsFromKeyspace", (["nothing", "x"],), "ERR tensor key is empty or in a different shard"),
        ("createModelRunner", (1,), "the name of a key is text or bytes, not 1"),
        ("modelRunnerAddInput", (1, "a", None), "a model runner is expected, not 1"),
        ("modelRunnerAddOutput", (1, "a"), "a model runner is expected, not 1"),
        ("modelRunnerRun", (1,), "a model runner is expected, not 1"),
        ("modelRunnerRunAsync", (1,), "a model runner is expected, not 1"),
        ("createScriptRunner", ("s", 1), "the name of a function is expected, not 1"),
        ("scriptRunnerAddInput", (1, None), "a script runner is expected, not 1"),
        ("scriptRunnerRun", (None,), "a script runner is expected, not None"),
        ("scriptRunnerRunAsync", (None,), "a script runner is expected, not None"),
    ],
)
def test_mistakes(ai: Any, function: str, arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(Exception) as raised:
        getattr(ai, function)(*arguments)
    assert str(raised.value).startswith(text)


def test_several_keys_are_one_command(wire: Wire, caller: Caller, ai: Any) -> None:
    a, b = floats(ai, 1.0), floats(ai, 2.0)
    ai.msetTensorsInKeyspace({"a{1}": a, "b{1}": b})
    assert ai.mgetTensorsFromKeyspace(["b{1}", "a{1}", "b{1}"]) == [b, a, b]
    assert caller.names() == ["AI.DAGEXECUTE", "AI.DAGEXECUTE_RO"]
    ai.msetTensorsInKeyspace({})
    assert ai.mgetTensorsFromKeyspace([]) == [] and len(caller.asked) == 2
    wire.ask("SET", "text", "1")
    with pytest.raises(CommandError, match="WRONGTYPE"):
        ai.msetTensorsInKeyspace({"new": a, "text": b})
    assert wire.ask("EXISTS", "new") == 0


def test_several_keys_in_a_transaction(wire: Wire) -> None:
    """There the server runs no DAG, but nothing comes between single commands."""
    eval_ = "return {redis.pcall(unpack(ARGV))}"

    def call(*words: Word) -> Any:
        reply = checked(wire.ask("EVAL", eval_, 0, *words))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    ai: Any = make_module(call, Caller(wire).call_async)
    a, b = floats(ai, 1.0), floats(ai, 2.0)
    ai.msetTensorsInKeyspace({"a": a, "b": b})
    assert ai.mgetTensorsFromKeyspace(["b", "a"]) == [b, a]


# ---- runs


def model_runner(ai: Any, key: str, inputs: dict[str, Any], *outputs: str) -> Any:
    runner = ai.createModelRunner(key)
    for name, tensor in inputs.items():
        assert ai.modelRunnerAddInput(runner, name, tensor) == 1
    for name in outputs:
        assert ai.modelRunnerAddOutput(runner, name) == 1
    return runner


def test_model(wire: Wire, caller: Caller, ai: Any) -> None:
    """Names do not count, but for TF."""
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_split3())
    x = ai.createTensorFromValues("FLOAT", [3], range(3))
    before = wire.ask("DBSIZE")
    outputs = ai.modelRunnerRun(model_runner(ai, "m", {"any": x}, "1", "2", "3"))
    assert [ai.tensorToFlatList(each) for each in outputs] == [[0.0], [1.0], [2.0]]
    assert caller.names() == ["AI.MODELGET", "AI.DAGEXECUTE_RO"]
    ai.modelRunnerRun(model_runner(ai, "m", {"any": x}, "1", "2", "3"))
    assert caller.names()[2:] in (["AI.DAGEXECUTE_RO"], ["AI.MODELGET", "AI.DAGEXECUTE_RO"])
    assert wire.ask("DBSIZE") == before
    with pytest.raises(CommandError, match="ERR Number of keys given as OUTPUTS here does not match model definition"):
        ai.modelRunnerRun(model_runner(ai, "m", {"any": x}, "1"))
    with pytest.raises(CommandError, match="ERR Input count must be a positive integer"):
        ai.modelRunnerRun(model_runner(ai, "m", {}, "1", "2", "3"))
    with pytest.raises(CommandError, match="ERR .*[Ii]nvalid"):
        ai.modelRunnerRun(model_runner(ai, "m", {"any": floats(ai, 1.0)}, "1", "2", "3"))


def test_tensorflow_model(wire: Wire, ai: Any) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "TF", "CPU", "INPUTS", 2, "a", "b", "OUTPUTS", 2, "c", "d", "BLOB", MINUS)
    inputs = {"b": floats(ai, 1.0), "a": floats(ai, 5.0)}
    for outputs, values in {("c",): [4.0], ("d",): [-5.0], ("d", "c"): [-5.0, 4.0]}.items():
        found = ai.modelRunnerRun(model_runner(ai, "m", inputs, *outputs))
        assert [value for tensor in found for value in ai.tensorToFlatList(tensor)] == values
    for wrong, names, text in (
        ({"a": inputs["a"]}, ["c"], "the input 'b' of the model 'm' is missing"),
        ({**inputs, "x": inputs["a"]}, ["c"], "the model 'm' has no input 'x': it has a, b"),
        (inputs, ["x"], "the model 'm' has no output 'x': it has c, d"),
        (inputs, ["c", "c"], "the output 'c' of the model 'm' was added twice"),
        (inputs, [], "the runner of the model 'm' has no outputs"),
    ):
        with pytest.raises(Exception, match=text):
            ai.modelRunnerRun(model_runner(ai, "m", wrong, *names))


def test_a_replaced_model_without_known_database(wire: Wire, caller: Caller) -> None:
    """Names are asked for each time where databases cannot be told apart."""
    ai: Any = make_module(caller.call, caller.call_async)
    for names, value in ((("a", "b"), 4.0), (("b", "a"), 4.0)):
        wire.ask_ok("AI.MODELSTORE", "m", "TF", "CPU", "INPUTS", 2, *names, "OUTPUTS", 1, "c", "BLOB", MINUS)
        runner = model_runner(ai, "m", {"b": floats(ai, 1.0), "a": floats(ai, 5.0)}, "c")
        assert ai.tensorToFlatList(ai.modelRunnerRun(runner)[0]) == [value]


def test_script(wire: Wire, ai: Any) -> None:
    wire.ask_ok("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 2, "add", "pair", "SOURCE", SOURCE)
    runner = ai.createScriptRunner("s", "add")
    assert ai.scriptRunnerAddInput(runner, floats(ai, 1.0, 2.0)) == 1
    assert ai.scriptRunnerAddInputList(runner, [floats(ai, 10.0, 20.0), floats(ai, 0.5, 0.5)]) == 1
    assert ai.scriptRunnerAddOutput(runner) == 1
    (output,) = ai.scriptRunnerRun(runner)
    assert ai.tensorToFlatList(output) == [11.5, 22.5]
    runner = ai.createScriptRunner("s", "pair")
    ai.scriptRunnerAddOutput(runner)
    ai.scriptRunnerAddOutput(runner)
    assert [ai.tensorToFlatList(each) for each in ai.scriptRunnerRun(runner)] == [[1.0], [0.0, 0.0]]
    assert ai.scriptRunnerRun(ai.createScriptRunner("s", "pair")) == []
    for key, function, text in (("s", "none", "ERR Function does not exist: none"), ("x", "f", "script key is empty")):
        with pytest.raises(CommandError, match=text):
            ai.scriptRunnerRun(ai.createScriptRunner(key, function))


def test_missing_model(ai: Any) -> None:
    with pytest.raises(CommandError, match="ERR model key is empty"):
        ai.modelRunnerRun(model_runner(ai, "nothing", {}, "c"))


def test_a_runner_runs_once(wire: Wire, ai: Any) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_mul(("n",)))
    wire.ask_ok("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 2, "add", "pair", "SOURCE", SOURCE)
    a = floats(ai, 2.0)
    model = model_runner(ai, "m", {"a": a, "b": a}, "c")
    ai.modelRunnerRun(model)
    script = ai.createScriptRunner("s", "pair")
    ai.scriptRunnerRun(script)
    for function, arguments in (
        ("modelRunnerRun", (model,)),
        ("modelRunnerRunAsync", (model,)),
        ("modelRunnerAddInput", (model, "a", a)),
        ("modelRunnerAddOutput", (model, "c")),
        ("scriptRunnerRun", (script,)),
        ("scriptRunnerRunAsync", (script,)),
        ("scriptRunnerAddInput", (script, a)),
        ("scriptRunnerAddOutput", (script,)),
    ):
        with pytest.raises(Exception, match="a runner runs once"):
            getattr(ai, function)(*arguments)


def test_awaited_runs(wire: Wire, ai: Any) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_mul(("n",)))
    wire.ask_ok("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 2, "add", "pair", "SOURCE", SOURCE)
    a = floats(ai, 3.0)
    script = ai.createScriptRunner("s", "add")
    ai.scriptRunnerAddInputList(script, [a, a])
    ai.scriptRunnerAddOutput(script)

    async def flow() -> list[Any]:
        first = ai.modelRunnerRunAsync(model_runner(ai, "m", {"a": a, "b": a}, "c"))
        failed = ai.modelRunnerRunAsync(model_runner(ai, "nothing", {}, "c"))
        found = [await first, await ai.scriptRunnerRunAsync(script)]
        with pytest.raises(CommandError, match="ERR model key is empty"):
            await failed
        return [ai.tensorToFlatList(outputs[0]) for outputs in found]

    assert asyncio.run(flow()) == [[9.0], [6.0]]

    async def later(pending: Any) -> Any:
        return await pending

    outside_of_loops = ai.modelRunnerRunAsync(model_runner(ai, "m", {"a": a, "b": a}, "c"))
    assert ai.tensorToFlatList(asyncio.run(later(outside_of_loops))[0]) == [9.0]


def test_runs_begin_before_they_are_awaited() -> None:
    """Several are under way together."""
    begun: list[Word] = []

    async def call_async(*words: Word) -> Any:
        begun.append(words[0])
        await asyncio.sleep(0)
        raise CommandError("enough")

    ai: Any = make_module(lambda *_: None, call_async)

    async def flow() -> None:
        pending = [ai.scriptRunnerRunAsync(ai.createScriptRunner("s", "f")) for _ in range(3)]
        with pytest.raises(CommandError):
            await pending[0]
        assert len(begun) == 3
        await asyncio.gather(*pending, return_exceptions=True)

    asyncio.run(flow())


# ---- DAGs


def run(dag: Any) -> Any:
    async def wait() -> Any:
        return await dag.Run()

    return asyncio.run(wait())


def test_dag(wire: Wire, caller: Caller, ai: Any) -> None:
    wire.ask_ok("AI.MODELSTORE", "m{1}", "ONNX", "CPU", "BLOB", models.onnx_mul(("n",)))
    wire.ask_ok("AI.SCRIPTSTORE", "s{1}", "CPU", "ENTRY_POINTS", 1, "add", "SOURCE", SOURCE)
    dag = ai.createDAGRunner()
    assert dag.TensorSet("b", floats(ai, 3.0)) is dag and dag.Input("a", floats(ai, 2.0)) is dag
    assert dag.ModelRun(name="m{1}", inputs=["a", "b"], outputs=["c"]) is dag and dag.TensorGet("c") is dag
    assert dag.ScriptRun(name="s{1}", func="add", inputs=["c", "b"], outputs=["d"]) is dag
    results = run(dag.TensorGet("d"))
    assert [results[i] for i in (0, 1, 3)] == ["OK"] * 3
    assert ai.tensorToFlatList(results[2]) == [6.0] and ai.tensorToFlatList(results[4]) == [9.0]
    assert len(results) == 5 and caller.names() == ["AI.DAGEXECUTE"]
    with pytest.raises(Exception, match="a runner runs once"):
        dag.Run()
    with pytest.raises(Exception, match="a runner runs once"):
        dag.TensorGet("c")


def test_dag_of_text(wire: Wire, caller: Caller, ai: Any) -> None:
    wire.ask_ok("AI.MODELSTORE", "m{1}", "ONNX", "CPU", "BLOB", models.onnx_mul(("n",)))
    dag = ai.createDAGRunner().Input("a", floats(ai, 2.0))
    text = (
        "|> ai.tensorset b FLOAT 1 VALUES 5\n |> AI.MODELEXECUTE m{1} INPUTS 2 a b OUTPUTS 1 c |> ai.tensorget c VALUES"
    )
    assert dag.OpsFromString(text) is dag
    set_, executed, tensor = run(dag)
    assert (set_, executed, ai.tensorToFlatList(tensor)) == ("OK", "OK", [10.0])
    assert caller.names() == ["AI.DAGEXECUTE_RO"]
    assert ai.tensorToFlatList(
        run(ai.createDAGRunner().OpsFromString("AI.TENSORSET a INT8 1 |> AI.TENSORGET a"))[1]
    ) == [0]
    for wrong in ("", "|>", "AI.TENSORGET a |>", "AI.TENSORGET a |> |> AI.TENSORGET a", "SET a b"):
        with pytest.raises(Exception, match="Unsupported command within DAG"):
            run(ai.createDAGRunner().OpsFromString(wrong))
    with pytest.raises(Exception, match="the text of a DAG is expected, not 1"):
        ai.createDAGRunner().OpsFromString(1)


def test_errors_of_dags(wire: Wire, ai: Any) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_mul(("n",)))
    with pytest.raises(Exception, match="DAG is empty"):
        run(ai.createDAGRunner())
    with pytest.raises(CommandError, match="ERR INPUT key cannot be found in DAG"):
        run(ai.createDAGRunner().ModelRun(name="m", inputs=["a", "b"], outputs=["c"]))
    dag = ai.createDAGRunner().Input("a", floats(ai, 1.0)).Input("b", ai.createTensorFromValues("INT8", [1], [1]))
    with pytest.raises(CommandError, match="ERR .*INT8"):
        run(dag.ModelRun(name="m", inputs=["a", "b"], outputs=["c"]).TensorGet("c"))
    steps: list[tuple[str, dict[str, Any]]] = [
        ("Input", {"name": "a", "tensor": 1}),
        ("TensorSet", {"name": 1, "tensor": floats(ai, 1.0)}),
        ("ModelRun", {"name": "m", "inputs": [1], "outputs": ["c"]}),
        ("ModelRun", {"name": "m", "inputs": 1, "outputs": ["c"]}),
        ("ScriptRun", {"name": "m", "func": None}),
    ]
    for method, words in steps:
        with pytest.raises(Exception, match="is expected|the name of a key is text"):
            getattr(ai.createDAGRunner(), method)(**words)


def test_keys(wire: Wire, caller: Caller, ai: Any) -> None:
    """In a cluster, a run is sent to the slot of its model: it has no other keys."""
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_mul(("n",)))
    wire.ask_ok("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 1, "add", "SOURCE", SOURCE)
    a = floats(ai, 3.0)
    ai.modelRunnerRun(model_runner(ai, "m", {"a": a, "b": a}, "c"))
    run(ai.createDAGRunner().Input("a", a).ModelRun(name="m", inputs=["a", "a"], outputs=["c"]))
    script = ai.createScriptRunner("s", "add")
    ai.scriptRunnerAddInput(script, a)
    ai.scriptRunnerRun(script)
    dags = [words for words in caller.asked if str(words[0]).startswith("AI.DAGEXECUTE")]
    assert [set(wire.ask("COMMAND", "GETKEYS", *words)) for words in dags] == [{b"m"}, {b"m"}, {b"s"}]


def test_module(ai: ModuleType) -> None:
    assert type(ai) is ModuleType and ai.__name__ == "redisAI"
    with pytest.raises(AttributeError):
        ai.createTensorFromValues("FLOAT", [1], [1]).dims = (2,)
