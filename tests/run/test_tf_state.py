"""TensorFlow graphs with variables or tables: those that nothing fills are found when they are stored."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from testkit import tf_models
from testkit.tf_models import graph, placeholder, spec
from testkit.wire import Error, Wire
from tests.run.test_tensorflow import store

FREEZE = r": freeze the graph first, with convert_variables_to_constants_v2\(\) of TensorFlow"
KEEP = ": keep the node init_all_tables when you freeze the graph"


def variable(tf: Any, resource: bool) -> Any:
    zeros = tf.compat.v1.zeros_initializer()
    return tf.compat.v1.get_variable("w", [1, 2], use_resource=resource, initializer=zeros)


def multiplied(tf: Any, resource: bool) -> None:
    tf.multiply(placeholder(), variable(tf, resource), name="y")
    tf.compat.v1.global_variables_initializer()


def assigned(tf: Any, resource: bool) -> None:
    tf.identity(tf.compat.v1.assign(variable(tf, resource), placeholder(shape=[1, 2])), name="y")


def assigned_before(tf: Any, resource: bool) -> None:
    w = variable(tf, resource)
    with tf.control_dependencies([tf.compat.v1.assign(w, placeholder(shape=[1, 2]))]):
        tf.identity(w.read_value(), name="y")


def beside(tf: Any, resource: bool) -> None:
    tf.identity(placeholder(), name="y")
    tf.multiply(variable(tf, resource), 2)


def maybe(tf: Any, resource: bool) -> None:
    x = placeholder()
    tf.compat.v1.disable_control_flow_v2()
    w = variable(tf, resource)
    tf.identity(tf.compat.v1.cond(tf.reduce_sum(x) > 0, lambda: x, lambda: w.read_value()), name="y")
    tf.compat.v1.enable_control_flow_v2()


def run(wire: Wire) -> object:
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 3, 4)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    return wire.ask("AI.TENSORGET", "y", "VALUES") if reply == b"OK" else reply


@pytest.mark.parametrize("resource", [False, True])
def test_a_variable_without_a_value(wire: Wire, resource: bool) -> None:
    reply = store(wire, graph(lambda tf: multiplied(tf, resource)), "x", "y")
    assert isinstance(reply, Error)
    assert re.fullmatch("ERR node 'w' of the graph is a variable without a value" + FREEZE, reply), reply
    assert wire.ask("EXISTS", "m") == 0


@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize("build", [assigned, assigned_before, beside, maybe])
def test_variables_that_do_not_prevent_a_run(wire: Wire, build: Callable[[Any, bool], None], resource: bool) -> None:
    assert store(wire, graph(lambda tf: build(tf, resource)), "x", "y") == b"OK"
    assert run(wire) == [b"3", b"4"]


def test_a_variable_that_is_fed(wire: Wire) -> None:
    assert store(wire, graph(lambda tf: tf.identity(variable(tf, False), name="y")), "w/read", "y") == b"OK"
    assert run(wire) == [b"3", b"4"]


def test_a_variable_in_a_function(wire: Wire) -> None:
    """The form of a SavedModel: the variable goes into a function, which reads it."""

    def build(tf: Any) -> None:
        w = variable(tf, True)
        tf.identity(tf.function(lambda x: x * w)(placeholder()), name="y")

    reply = store(wire, graph(build), "x", "y")
    assert isinstance(reply, Error) and re.fullmatch("ERR node 'w' .*" + FREEZE, reply), reply


def test_the_graph_of_a_keras_network_that_is_not_frozen(wire: Wire) -> None:
    network = tf_models.keras_network()
    function = tf_models.tensorflow().function(lambda x: network(x)).get_concrete_function(spec([None, 8, 8, 2]))
    reply = store(wire, function.graph.as_graph_def().SerializeToString(), "x", "Identity")
    assert isinstance(reply, Error)
    assert re.fullmatch("ERR node '.*' of the graph takes a variable or table from outside" + FREEZE, reply), reply


def lookup(tf: Any) -> Any:
    filling = tf.lookup.KeyValueTensorInitializer(tf.constant(["one", "two"]), tf.constant([1, 2]))
    return tf.identity(tf.lookup.StaticHashTable(filling, -1).lookup(placeholder("x", "string")), name="y")


def with_init(tf: Any) -> None:
    lookup(tf)
    tf.compat.v1.tables_initializer()


@pytest.mark.parametrize("build", [lookup, with_init])
def test_tables_are_filled(wire: Wire, build: Callable[[Any], object]) -> None:
    assert store(wire, graph(build), "x", "y") == b"OK"
    wire.ask_ok("AI.TENSORSET", "x", "STRING", 3, "VALUES", "two", "three", "one")
    for _ in range(2):
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [2, -1, 1]


def test_a_table_that_nothing_fills(wire: Wire) -> None:
    tf = tf_models.tensorflow()
    whole = tf.compat.v1.GraphDef.FromString(graph(with_init))
    cut = tf.compat.v1.graph_util.extract_sub_graph(whole, ["y"])
    reply = store(wire, cut.SerializeToString(), "x", "y")
    assert reply == "ERR node 'hash_table' of the graph is a table that nothing fills" + KEEP
    kept = tf.compat.v1.graph_util.extract_sub_graph(whole, ["y", "init_all_tables"])
    assert store(wire, kept.SerializeToString(), "x", "y") == b"OK"


def test_an_init_op_that_fails(wire: Wire) -> None:
    def build(tf: Any) -> None:
        filling = tf.lookup.KeyValueTensorInitializer(tf.constant(["one"]), placeholder("values", "int32", [1]))
        tf.identity(tf.lookup.StaticHashTable(filling, -1).lookup(placeholder("x", "string")), name="y")

    reply = store(wire, graph(build), "x", "y")
    assert isinstance(reply, Error) and "You must feed a value for placeholder tensor 'values'" in reply
    assert wire.ask("EXISTS", "m") == 0
