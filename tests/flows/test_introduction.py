"""The flow of the introduction to RedisAI runs as it is printed there; and what else flows do with redisAI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testkit import graph_def
from testkit.server import Server, module_path
from testkit.wire import Error, Wire

MULTIPLY = b"".join(
    graph_def.node(name, op, inputs)
    for name, op, inputs in [("a", "Placeholder", ""), ("b", "Placeholder", ""), ("c", "Mul", "a b")]
)

INTRODUCTION = """
import redisAI

async def ModelRun(record):
    tensor_a = redisAI.createTensorFromValues('FLOAT', [2,2], [1.0, 2.0, 3.0, 4.0])
    tensor_b = redisAI.createTensorFromValues('FLOAT', [2,2], [2.0, 3.0, 2.0, 3.0])
    redisAI.msetTensorsInKeyspace({'a{1}': tensor_a, 'b{1}': tensor_b})

    # assuming 'mymodel' is a model stored in Redis
    modelRunner = redisAI.createModelRunner('mymodel')
    redisAI.modelRunnerAddInput(modelRunner, 'a', tensor_a)
    redisAI.modelRunnerAddInput(modelRunner, 'b', tensor_b)
    redisAI.modelRunnerAddOutput(modelRunner, 'c')

    # run the model asynchronously in RedisAI
    res = await redisAI.modelRunnerRunAsync(modelRunner)
    redisAI.setTensorInKey('c{1}', res[0])
    return "ModelRun_OK"

GB("CommandReader").map(ModelRun).register(trigger="ModelRun")
"""

MORE = """
import asyncio
import redisAI

def floats(*values):
    return redisAI.createTensorFromValues('FLOAT', [len(values)], values)

def runner(key, a, b):
    runner = redisAI.createModelRunner(key)
    redisAI.modelRunnerAddInput(runner, 'b', b)
    redisAI.modelRunnerAddInput(runner, 'a', a)
    redisAI.modelRunnerAddOutput(runner, 'c')
    return runner

def sync(record):
    return redisAI.tensorToFlatList(redisAI.modelRunnerRun(runner(record[1], floats(2.0), floats(float(record[2]))))[0])

async def together(record):
    runs = [redisAI.modelRunnerRunAsync(runner('mymodel', floats(2.0), floats(float(i)))) for i in range(100)]
    return [redisAI.tensorToFlatList(outputs[0])[0] for outputs in await asyncio.gather(*runs)]

def returned(record):
    return redisAI.modelRunnerRunAsync(runner('mymodel', floats(2.0), floats(4.0)))

async def dag(record):
    dag = redisAI.createDAGRunner().Input('x', floats(3.0)).ModelRun(name='mymodel', inputs=['x', 'x'], outputs=['y'])
    return redisAI.tensorToFlatList((await dag.TensorGet('y').Run())[1])

def in_one_block(record):
    with atomic():
        redisAI.msetTensorsInKeyspace({'x{1}': floats(1.0), 'y{1}': floats(2.0)})
        return [redisAI.tensorToFlatList(t) for t in redisAI.mgetTensorsFromKeyspace(['x{1}', 'y{1}'])]

for f in (sync, together, dag, in_one_block):
    GB('CommandReader').map(f).register(trigger=f.__name__)
GB('CommandReader').map(returned).map(lambda outputs: redisAI.tensorToFlatList(outputs[0])).register(trigger='returned')
"""


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server with flows and the model, and a connection to it."""
    server = Server(tmp_path_factory.mktemp("flows"), options=["FLOWS", "yes"], module=module_path()).start()
    with server.wire() as wire:
        words = ("AI.MODELSTORE", "mymodel", "TF", "CPU", "INPUTS", 2, "a", "b", "OUTPUTS", 1, "c", "BLOB", MULTIPLY)
        wire.ask_ok(*words)
        yield wire
    assert server.stop() == 0, server.log_tail()


def values(wire: Wire, key: str) -> Any:
    return wire.ask("AI.TENSORGET", key, "VALUES")


def test_introduction(flows: Wire) -> None:
    flows.ask_ok("RG.PYEXECUTE", INTRODUCTION)
    assert flows.ask("RG.TRIGGER", "ModelRun") == [b"ModelRun_OK"]
    assert values(flows, "c{1}") == [b"2", b"6", b"6", b"12"]
    assert (values(flows, "a{1}"), values(flows, "b{1}")) == ([b"1", b"2", b"3", b"4"], [b"2", b"3", b"2", b"3"])


def test_more(flows: Wire) -> None:
    flows.ask_ok("RG.PYEXECUTE", MORE)
    assert flows.ask("RG.TRIGGER", "sync", "mymodel", "21") == [b"[42.0]"]
    assert flows.ask("RG.TRIGGER", "together") == [str([2.0 * i for i in range(100)]).encode()]
    assert flows.ask("RG.TRIGGER", "returned") == [b"[8.0]"]
    assert flows.ask("RG.TRIGGER", "dag") == [b"[9.0]"]
    assert flows.ask("RG.TRIGGER", "in_one_block") == [b"[[1.0], [2.0]]"]
    reply = flows.ask("RG.TRIGGER", "sync", "nothing", "1")
    assert isinstance(reply, Error) and "model key is empty" in reply


def test_requirements(flows: Wire) -> None:
    """An old pin of a package that is there counts as met. Programs look for the word yes at these places."""
    flows.ask_ok("RG.PYEXECUTE", "import numpy", "REQUIREMENTS", "numpy<1.0")
    (row,) = flows.ask("RG.PYDUMPREQS")
    assert row[2:4] == [b"Name", b"numpy<1.0"] and row[5] == row[7] == b"yes"
    reply = flows.ask("RG.PYEXECUTE", "import numpy", "REQUIREMENTS", "--index-url=http://127.0.0.1")
    assert isinstance(reply, Error) and "is no requirement such as name or name>=1.0" in reply
