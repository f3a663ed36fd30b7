"""Outputs of ONNX models that are no tensors: classifiers' maps become tensors, sequences are stacked, others refused.

A client that reads an output key after OK must read this run's tensor, never an older one.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from testkit import models
from testkit.paths import both_paths, check_path
from testkit.server import Server
from testkit.wire import Error, Wire

X, CLASSES = load_iris(return_X_y=True)
X = X.astype(np.float32)
MAPS = helper.make_sequence_type_proto(
    helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
)
NAMES = np.array(["setosa", "a name", "é"])[CLASSES]


def run(wire: Wire, inputs: list[str], outputs: list[str]) -> Any:
    return wire.ask("AI.MODELEXECUTE", "m", "INPUTS", len(inputs), *inputs, "OUTPUTS", len(outputs), *outputs)


def scores(wire: Wire, key: str) -> Any:
    _, dtype, _, shape, _, data = wire.ask("AI.TENSORGET", key)
    assert dtype == b"FLOAT"
    return np.frombuffer(data, np.float32).reshape(shape)


# ---- maps ------------------------------------------------------------------------------------------------------------


@both_paths
@pytest.mark.parametrize("classes", [CLASSES, CLASSES * -7, NAMES], ids=["numbers", "negative", "names"])
@pytest.mark.parametrize(
    "classifier",
    [
        lambda: LogisticRegression(max_iter=1000),
        lambda: RandomForestClassifier(10, random_state=1),
        lambda: KNeighborsClassifier(3),
        lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=["logistic", "forest", "neighbours", "pipeline"],
)
def test_a_default_export_of_scikit_learn(
    server: Server, wire: Wire, classifier: Callable[[], Any], classes: Any
) -> None:
    fitted = classifier().fit(X, classes)
    blob = to_onnx(fitted, X[:1]).SerializeToString()
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob) == b"OK"
    wire.ask("AI.TENSORSET", "p", "FLOAT", 1, 3, "VALUES", 9, 9, 9)
    for rows in (1, 50):
        x = X[:: 150 // rows][:rows]
        wire.ask("AI.TENSORSET", "x", "FLOAT", rows, 4, "BLOB", x.tobytes())
        assert run(wire, ["x"], ["c", "p"]) == b"OK"
        np.testing.assert_allclose(scores(wire, "p"), fitted.predict_proba(x), atol=1e-5)
        labels = wire.ask("AI.TENSORGET", "c", "VALUES")
        assert labels == [label.encode() if isinstance(label, str) else label for label in fitted.predict(x).tolist()]
    assert wire.ask("AI.MODELGET", "m", "META")[13] == [b"output_label", b"output_probability"]
    assert wire.ask("AI.MODELGET", "m", "BLOB") == blob
    if classes is not NAMES:
        check_path(server, direct=2)


def test_a_pipeline_that_reads_text(wire: Wire) -> None:
    texts = ["good film", "bad film", "very good", "very bad indeed"]
    fitted = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression()).fit(texts, ["+", "-", "+", "-"])
    onnx = to_onnx(fitted, initial_types=[("text", StringTensorType([None, 1]))])
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", onnx.SerializeToString()) == b"OK"
    wire.ask("AI.TENSORSET", "x", "STRING", 4, 1, "VALUES", *texts)
    assert run(wire, ["x"], ["c", "p"]) == b"OK"
    np.testing.assert_allclose(scores(wire, "p"), fitted.predict_proba(texts), atol=1e-5)


@both_paths
def test_columns_are_in_the_order_of_the_models_classes(server: Server, wire: Wire) -> None:
    """The library's own maps have them sorted."""
    blob = models.onnx_classifier("z", "b", "a")
    (maps,) = onnxruntime.InferenceSession(blob).run(["scores"], {"x": np.array([[1, 2, 3]], np.float32)})
    assert list(maps[0]) == ["a", "b", "z"]
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, 3, "VALUES", 1, 2, 3, 4, 5, 6)
    assert run(wire, ["x"], ["c", "p"]) == b"OK"
    assert scores(wire, "p").tolist() == [[1, 2, 3], [4, 5, 6]]
    check_path(server, direct=1)


def lightgbm_like() -> bytes:
    """As LightGBM is exported: a forest, its two scores, ZipMap; only operators of machine learning."""
    leaf: dict[str, Any] = {
            "nodes_falsenodeids": [2, 0, 0], "nodes_truenodeids": [1, 0, 0], "nodes_featureids": [0, 0, 0],
            "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_nodeids": [0, 1, 2], "nodes_treeids": [0, 0, 0],
            "nodes_values": [0.5, 0.0, 0.0], "class_ids": [0, 0], "class_nodeids": [1, 2], "class_treeids": [0, 0],
            "class_weights": [-1.0, 2.0], "classlabels_int64s": [0, 1], "post_transform": "LOGISTIC"}  # fmt: skip
    nodes = [
        helper.make_node("TreeEnsembleClassifier", ["x"], ["label", "tensor"], domain="ai.onnx.ml", **leaf),
        helper.make_node("ZipMap", ["tensor"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    outputs = [models.value("label", TensorProto.INT64, [None]), helper.make_value_info("scores", MAPS)]
    graph = helper.make_graph(nodes, "g", [models.value("x", TensorProto.FLOAT, [None, 1])], outputs)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 1)], ir_version=8
    ).SerializeToString()


def test_an_export_with_operators_of_machine_learning_only(wire: Wire) -> None:
    blob = lightgbm_like()
    x = np.array([[0], [1]], np.float32)
    _, maps = onnxruntime.InferenceSession(blob).run(None, {"x": x})
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, 1, "BLOB", x.tobytes())
    assert run(wire, ["x"], ["c", "p"]) == b"OK"
    assert scores(wire, "p").tolist() == [[one[0], one[1]] for one in maps]


def test_maps_that_cannot_be_taken_out_are_refused(wire: Wire) -> None:
    """In a function of the model: the run fails, names the output and the way out, and changes no key."""
    zipmap = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Zip", ["x"], ["y"], [zipmap], opsets)
    x, scores = models.value("x", TensorProto.FLOAT, [None, 2]), helper.make_value_info("scores", MAPS)
    graph = helper.make_graph([helper.make_node("Zip", ["x"], ["scores"], domain="own")], "g", [x], [scores])
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", model.SerializeToString()) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "p", "FLOAT", 1, "VALUES", 9)
    reply = run(wire, ["x"], ["p"])
    assert isinstance(reply, Error)
    assert "output 'scores'" in reply and "zipmap" in reply.lower()
    assert wire.ask("AI.TENSORGET", "p", "VALUES") == [b"9"]


def test_very_many_classes_are_refused(wire: Wire) -> None:
    blob = models.onnx_classifier(*range(70000))
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 70000)
    reply = run(wire, ["x"], ["c", "p"])
    assert isinstance(reply, Error) and "output 'scores' is a sequence of maps" in reply


@pytest.mark.parametrize("cut", [1, 10, 60, 200])
def test_a_broken_classifier_gets_the_librarys_words(wire: Wire, cut: int) -> None:
    blob = models.onnx_classifier("z", "a")
    reply = wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob[:-cut])
    assert isinstance(reply, Error)
    assert reply.startswith("ERR Failed to load model")
    assert wire.ask("EXISTS", "m") == 0


# ---- sequences and others --------------------------------------------------------------------------------------------


@both_paths
def test_a_sequence_is_stacked(server: Server, wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_sequence())
    wire.ask("AI.TENSORSET", "a", "FLOAT", 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "b", "FLOAT", 2, "VALUES", 3, 4)
    assert run(wire, ["a", "b"], ["seq", "sum"]) == b"OK"
    assert scores(wire, "seq").tolist() == [[1, 2], [3, 4]]
    assert wire.ask("AI.TENSORGET", "sum", "VALUES") == [b"4", b"6"]
    check_path(server, python=1)


@both_paths
@pytest.mark.parametrize(
    "command",
    ["AI.MODELEXECUTE m INPUTS 2 a a OUTPUTS 2 seq sum", "AI.MODELRUN m INPUTS a a OUTPUTS seq sum"],
)
def test_a_sequence_of_different_shapes_fails_the_run(server: Server, wire: Wire, command: str) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_ragged())
    for key in ("a", "seq", "sum"):
        wire.ask("AI.TENSORSET", key, "FLOAT", 2, "VALUES", 8, 9)
    reply = wire.ask(*command.split())
    assert reply == Error(
        "ERR output 'sequence' is a sequence of tensors of different shapes, [2] and [4], which no tensor can hold;"
        " pad or concatenate them, and export the model again"
    )
    assert wire.ask("AI.TENSORGET", "sum", "VALUES") == [b"8", b"9"]
    check_path(server, python=1)


@both_paths
@pytest.mark.parametrize("given", [True, False])
def test_an_optional_output(server: Server, wire: Wire, given: bool) -> None:
    of = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"])
    node = helper.make_node("Optional", ["x"] if given else [], ["y"], type=of)
    x = models.value("x", TensorProto.FLOAT, ["n"])
    nodes = [node, helper.make_node("Neg", ["x"], ["z"])]
    outputs = [helper.make_value_info("y", helper.make_optional_type_proto(of))]
    outputs.append(models.value("z", TensorProto.FLOAT, ["n"]))
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_model(nodes, [x], outputs))
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 3)
    reply = run(wire, ["x"], ["y", "z"])
    if given:
        assert reply == b"OK"
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"3"]
    else:
        assert isinstance(reply, Error) and "output 'y' is empty" in reply
        assert wire.ask("EXISTS", "y", "z") == 0
