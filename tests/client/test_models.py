"""What model_store() of the client takes: each framework's models give the framework's own predictions."""

# The frameworks have no types, or incomplete ones.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import xgboost
from redisai_module.client import RedisAI
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

from testkit import models, tf_models
from testkit.server import Client

Floats = npt.NDArray[np.float32]


@pytest.fixture
def ai(r: Client) -> RedisAI:
    return RedisAI(r)


@cache
def iris() -> tuple[Floats, npt.NDArray[np.str_]]:
    data = load_iris()
    return data.data.astype(np.float32), data.target_names[data.target]


def check(ai: RedisAI, x: Any, *expected: Any, key: str = "m") -> None:
    found = ai.run(key, x)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        if mine.dtype == object:
            assert np.array_equal(mine, theirs)
        else:
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


# ---- scikit-learn and its kin ----------------------------------------------------------------------------------------


def test_classifier_and_its_names(ai: RedisAI) -> None:
    x, names = iris()
    classifier = LogisticRegression(max_iter=1000).fit(x, names)
    ai.model_store("m", classifier, batch_size=32)
    check(ai, x, classifier.predict(x), classifier.predict_proba(x))


def test_regressor(ai: RedisAI) -> None:
    x, _ = iris()
    regressor = LinearRegression().fit(x[:, :3], x[:, 3])
    ai.model_store("m", regressor)
    check(ai, x[:, :3], regressor.predict(x[:, :3])[:, None])


def test_text(ai: RedisAI) -> None:
    """The locale that such models ask for by default is not there on most servers."""
    texts = np.array(["A good film", "A BAD film", "\u00c9T\u00c9: good", "\u00e9t\u00e9: awful, bad"])
    classifier = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0])
    with pytest.raises(ValueError, match="Give an array of one row or more as example"):
        ai.model_store("m", classifier)
    rows = np.reshape(texts, (-1, 1))
    ai.model_store("m", classifier, example=rows)
    check(ai, rows, classifier.predict(texts), classifier.predict_proba(texts))


def test_lightgbm(ai: RedisAI) -> None:
    x, names = iris()
    options: Any = {"n_estimators": 5, "verbose": -1}
    classes = np.unique(names, return_inverse=True)[1]
    classifier = lightgbm.LGBMClassifier(**options).fit(x, classes)
    ai.model_store("m", classifier)
    check(ai, x, classifier.predict(x), classifier.predict_proba(x))
    regressor = lightgbm.LGBMRegressor(**options).fit(x[:, :3], x[:, 3])
    ai.model_store("m", regressor)
    expected = np.reshape(regressor.predict(x[:, :3]), (-1, 1))
    check(ai, x[:, :3], expected)
    ai.model_store("m", regressor.booster_, example=x[:, :3])
    check(ai, x[:, :3], expected)


def test_xgboost(ai: RedisAI) -> None:
    x, names = iris()
    classes = np.unique(names, return_inverse=True)[1]
    classifier = xgboost.XGBClassifier(n_estimators=5).fit(x, classes)
    ai.model_store("m", classifier)
    check(ai, x, classifier.predict(x), classifier.predict_proba(x))


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Has a part that is random in training, and one that is set to evaluation by hand."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(4, 3)
        self.dropout = nn.Dropout()
        self.norm = nn.BatchNorm1d(3).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.dropout(torch.relu(self.linear(x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["script", "trace", "scripted before", "ONNX", "exported before"])
def test_pytorch(ai: RedisAI, how: str) -> None:
    x = torch.from_numpy(iris()[0])
    network = Network()
    if how == "scripted before":
        ai.model_store("m", torch.jit.script(network))
    elif how == "exported before":
        shapes: Any = ({0: torch.export.Dim("n")},)
        ai.model_store("m", torch.onnx.export(Network().eval(), (x,), dynamic_shapes=shapes, verbose=False))
    else:
        example = None if how == "script" else x[:2] if how == "ONNX" else (x[:1],)
        ai.model_store("m", network, example=example, backend="ONNX" if how == "ONNX" else None)
    assert [part.training for part in network.modules()] == [True, True, True, False]
    with torch.no_grad():
        check(ai, x.numpy(), Network().eval()(x).numpy())


def test_pytorch_to_onnx_needs_an_example(ai: RedisAI) -> None:
    with pytest.raises(ValueError, match="example inputs: give them as example"):
        ai.model_store("m", Network(), backend="ONNX")


# ---- Keras and TensorFlow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["ONNX", "TF"])
def test_keras(ai: RedisAI, backend: str) -> None:
    keras = tf_models.tensorflow().keras
    images = np.random.default_rng(1).random((5, 8, 8, 2), np.float32)
    network = tf_models.keras_network()
    ai.model_store("m", network, backend=backend)
    assert ai.model_get("m")["backend"] == backend
    check(ai, images, network.predict(images, verbose=0))

    class Own(keras.Model):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    own = Own()
    own(images)
    ai.model_store("m", own, backend=backend)
    check(ai, images, images * 2)


def test_keras_with_named_inputs(ai: RedisAI) -> None:
    """They and the outputs are in the order of their names."""
    keras = tf_models.tensorflow().keras
    ends = {name: keras.Input((2,), name=name) for name in "ab"}
    model = keras.Model(ends, {"z": ends["a"] + ends["b"], "y": ends["a"] - ends["b"]})
    ai.model_store("m", model)
    assert ai.model_get("m")["outputs"] == ["y", "z"]
    a = np.ones((1, 2), np.float32)
    y, z = ai.run("m", a, a * 3)
    assert (y.tolist(), z.tolist()) == ([[-2, -2]], [[4, 4]])


# ---- files -----------------------------------------------------------------------------------------------------------


def test_paths(ai: RedisAI, tmp_path: Path) -> None:
    tf = tf_models.tensorflow()
    (tmp_path / "tflite").write_bytes(tf_models.tflite_two())
    (tmp_path / "onnx").write_bytes(models.onnx_add())
    (tmp_path / "torch").write_bytes(models.torch_module(models.Add))
    (tmp_path / "tf").write_bytes(tf_models.tf_mul())
    for name in "tflite", "onnx", "torch":
        ai.model_store(name, tmp_path / name)
    ai.model_store("tf", str(tmp_path / "tf"), inputs=["a", "b"], outputs=["mul"])
    x = np.array([[1, 2]], np.float32)
    for name, expected in ("tflite", x * 2), ("onnx", x * 2), ("torch", x * 2), ("tf", x * x):
        assert ai.model_get(name)["backend"].lower() == name
        assert np.array_equal(ai.run(name, x, x)[0], expected)

    module = tf.Module()
    module.factor = tf.Variable(3.0)
    module.call = tf.function(lambda x: {"y": x * module.factor}, [tf.TensorSpec([None, 2], name="x")])
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.call)
    ai.model_store("m", tmp_path / "saved")
    check(ai, x, x * 3)


def test_objects_and_other_bytes(ai: RedisAI) -> None:
    ai.model_store("m", onnx.load_from_string(models.onnx_add()))
    ai.model_store("m", memoryview(models.onnx_add()))
    assert ai.model_blob("m") == models.onnx_add()


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (b"", ValueError, "these bytes are no model of ONNX, TorchScript, TensorFlow .frozen. or TensorFlow Lite"),
        (b"{}", ValueError, "these bytes are no model"),
        ("/nowhere", FileNotFoundError, "/nowhere"),
        ([1], TypeError, "a list cannot be stored: export it, and give the file's path or bytes"),
    ],
)
def test_what_is_no_model(ai: RedisAI, model: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ai.model_store("m", model)
