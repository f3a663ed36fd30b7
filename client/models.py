"""Turns what frameworks give into what AI.MODELSTORE takes. A framework is imported only when its model comes."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Definition(NamedTuple):
    blob: bytes
    backend: str
    inputs: Sequence[str] = ()  # names, of TF only
    outputs: Sequence[str] = ()


def define(
    model: Any, backend: str | None, example: Any = None, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> Definition:
    """What to store of a model.

    - a path: the file's bytes; a folder with a SavedModel: its signature serving_default, frozen
    - bytes, and objects of onnx and TensorFlow that have SerializeToString(): as they are
    - scikit-learn (by skl2onnx), LightGBM and XGBoost (by onnxmltools): ONNX, probabilities as a tensor (zipmap off)
    - torch.nn.Module: TorchScript, traced with the example, else compiled by torch.jit.script(); with the backend ONNX,
      exported with the example, whose 0th dimension may vary if it is 2 or more. In evaluation mode.
    - Keras: ONNX by model.export(); with the backend TF, frozen
    """
    if isinstance(model, str | os.PathLike):
        if os.path.isdir(model):
            return _freeze(os.fspath(model))
        model = Path(model).read_bytes()
    model = getattr(model, "model_proto", model)  # of torch.onnx.export()
    if hasattr(model, "SerializeToString"):
        model = model.SerializeToString()
    if isinstance(model, bytes | bytearray | memoryview):
        blob = bytes(model)
        return Definition(blob, backend or _recognise(blob), inputs, outputs)
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "keras" in packages:
        return _from_keras(model, backend)
    if "torch" in packages:
        return _from_torch(model, backend, example)
    if packages & {"sklearn", "lightgbm", "xgboost"}:
        return define(_from_estimator(model, packages, example), "ONNX")
    raise TypeError(f"a {type(model).__qualname__} cannot be stored: export it, and give the file's path or bytes")


def _recognise(blob: bytes) -> str:
    """The backend of a file. Fields of a protobuf message begin with their number: 1, ir_version or node."""
    found = {b"PK\3\4": "TORCH", b"\x08": "ONNX", b"\x0a": "TF"}
    if blob[4:8] == b"TFL3":
        return "TFLITE"
    for start, backend in found.items():
        if blob.startswith(start):
            return backend
    raise ValueError("these bytes are no model of ONNX, TorchScript, TensorFlow (frozen) or TensorFlow Lite")


def _from_estimator(model: Any, packages: set[str], example: Any) -> Any:
    if example is None and not hasattr(model, "n_features_in_"):
        raise ValueError("which inputs does the model have? Give an array of one row or more as example")
    columns = model.n_features_in_ if example is None else example.shape[1]
    if packages & {"lightgbm", "xgboost"}:
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType

        types = [("X", FloatTensorType([None, columns]))]
        if "lightgbm" in packages:
            return onnxmltools.convert_lightgbm(model, initial_types=types, zipmap=False)
        return onnxmltools.convert_xgboost(model, initial_types=types)
    import onnx
    import skl2onnx
    from sklearn.base import is_classifier

    inputs = {"initial_types": [("X", skl2onnx.common.data_types.FloatTensorType([None, columns]))]}
    made = skl2onnx.to_onnx(
        model,
        **(inputs if example is None else {"X": example[:1]}),
        options={"zipmap": False} if is_classifier(model) else None,
    )
    for node in made.graph.node:
        if node.op_type == "StringNormalizer":  # its default, en_US, is a locale that few servers have
            node.attribute.append(onnx.helper.make_attribute("locale", "C.UTF-8"))
        for attribute in node.attribute:
            if attribute.s == b"[a-zA-Z0-9_]+":  # words of other languages are words to scikit-learn, too
                attribute.s = rb"[\pL\pN_]+"
    return made


def _from_torch(module: Any, backend: str | None, example: Any) -> Definition:
    import torch

    arguments = example if isinstance(example, tuple) else (example,)
    blob = io.BytesIO()
    with _evaluating(module), torch.no_grad():
        if backend == "ONNX":
            if example is None:
                raise ValueError("PyTorch exports to ONNX with example inputs: give them as example")
            shapes = [{0: torch.export.Dim.AUTO} if torch.is_tensor(a) and a.dim() else None for a in arguments]
            program = torch.onnx.export(module, arguments, dynamo=True, verbose=False, dynamic_shapes=shapes)
            return define(program, "ONNX")
        jit: Any = torch.jit  # has no types
        if not isinstance(module, jit.ScriptModule):
            module = jit.script(module) if example is None else jit.trace(module, arguments)
        jit.save(module, blob)
    return Definition(blob.getvalue(), backend or "TORCH")


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Dropout and the like are off, as in a prediction; afterwards, every part is as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _from_keras(model: Any, backend: str | None) -> Definition:
    with tempfile.TemporaryDirectory() as folder:
        if backend == "TF":
            model.export(folder, verbose=False)
            return _freeze(folder)
        path = Path(folder, "model.onnx")
        try:
            signature: Any = [model.input]
        except AttributeError:  # a Sequential that has not been called, or a class of one's own
            signature = getattr(model, "inputs", None)
        model.export(path, format="onnx", verbose=False, input_signature=signature)
        return Definition(path.read_bytes(), "ONNX")


def _freeze(folder: str) -> Definition:
    import tensorflow
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tensorflow.saved_model.load(folder)
    frozen = convert_variables_to_constants_v2(loaded.signatures["serving_default"])
    names = [[tensor.name.removesuffix(":0") for tensor in ends] for ends in (frozen.inputs, frozen.outputs)]
    return Definition(frozen.graph.as_graph_def().SerializeToString(), "TF", *names)
