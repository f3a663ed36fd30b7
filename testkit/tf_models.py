"""Small TensorFlow and TensorFlow Lite models for the tests, as the bytes that AI.MODELSTORE takes.

TensorFlow's Python package builds them; it is imported with the first, which takes some seconds. The backend that runs
them never imports it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

from testkit.dtypes import DTYPES

TF_TYPES = {name: dtype.tf for name, dtype in DTYPES.items()}


@cache
def tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


def graph(build: Callable[[Any], object]) -> bytes:
    """The GraphDef of what build(tensorflow) adds to an empty graph."""
    tf = tensorflow()
    made = tf.Graph()
    with made.as_default():
        build(tf)
    return bytes(made.as_graph_def().SerializeToString())


def placeholder(name: str = "x", kind: str = "float32", shape: Any = None) -> Any:
    return tensorflow().compat.v1.placeholder(kind, shape, name)


@cache
def tf_mul(shape: tuple[int | None, ...] | None = (None, 2)) -> bytes:
    """a, b FLOAT -> mul."""
    return graph(lambda tf: tf.multiply(placeholder("a", shape=shape), placeholder("b", shape=shape), name="mul"))


@cache
def tf_identity(dtype: str = "FLOAT") -> bytes:
    """x -> y, the same, of any shape, for any of our type names."""
    return graph(lambda tf: tf.identity(placeholder("x", TF_TYPES[dtype]), name="y"))


@cache
def tf_cast(kind: str) -> bytes:
    """x FLOAT -> y of another of TensorFlow's types."""
    return graph(lambda tf: tf.identity(tf.cast(placeholder("x"), kind), name="y"))


@cache
def tf_add(kind: str) -> bytes:
    """a, b -> sum, of one of TensorFlow's types."""
    return graph(lambda tf: tf.add(placeholder("a", kind), placeholder("b", kind), name="sum"))


@cache
def tf_many() -> bytes:
    """x FLOAT [3n] -> total, of rank 0, where, maybe empty, text, positive (BOOL), half, complex, parts:0 to 2."""

    def build(tf: Any) -> None:
        x = placeholder("x")
        tf.reduce_sum(x, name="total")
        tf.where(x > 0, name="where")
        tf.as_string(x, precision=1, name="text")
        tf.greater(x, 0, name="positive")
        tf.cast(x, tf.half, name="half")
        tf.complex(x, x, name="complex")
        tf.split(x, 3, name="parts")

    return graph(build)


def frozen(function: Any, *inputs: Any, lower_control_flow: bool = True) -> tuple[bytes, str]:
    """A TF 2 function with its variables made constants: the GraphDef and the name of its one output."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    concrete = tensorflow().function(function).get_concrete_function(*inputs)
    made = convert_variables_to_constants_v2(concrete, lower_control_flow=lower_control_flow)
    return bytes(made.graph.as_graph_def().SerializeToString()), str(made.outputs[0].name)


def spec(shape: Any, kind: str = "float32", name: str = "x") -> Any:
    return tensorflow().TensorSpec(shape, kind, name)


@cache
def keras_network() -> Any:
    """A convolutional network for 8 x 8 images of 2 channels, 4 classes, with weights that are always the same."""
    layers = tensorflow().keras.layers
    tensorflow().keras.utils.set_random_seed(1)
    return tensorflow().keras.Sequential(
        [
            tensorflow().keras.Input((8, 8, 2)),
            layers.Conv2D(3, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )


def tflite(function: Any, *inputs: Any, data: Any = None, flex: bool = False) -> bytes:
    """A function as a TensorFlow Lite model; with sample data, quantised to 8 bits, inputs and outputs too. flex: with
    operators of TensorFlow where TensorFlow Lite has none."""
    tf = tensorflow()
    concrete = tf.function(function).get_concrete_function(*inputs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    converter.allow_custom_ops = not flex
    if flex:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    if data is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([item] for item in data)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


@cache
def tflite_two() -> bytes:
    """x, y FLOAT [n, 2] -> their sum, and the sum of all products, of rank 0."""
    return tflite(
        lambda x, y: (x + y, tensorflow().reduce_sum(x * y)), spec([None, 2], name="x"), spec([None, 2], name="y")
    )
