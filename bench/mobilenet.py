"""MobileNetV2 of width 1.0 for 1000 classes, as each library would be given it: what the images of bench/images.py go
through. MobileNetV1 of the same size is for bench/aibench.py.

The weights are random from a fixed seed, and such that activations neither fade nor grow; normalisation is folded into
them, as converters do. Nothing is downloaded. All four give the same, also at the borders: these are padded the way of
TensorFlow, which at a stride of 2 is one pixel on the right and at the bottom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from testkit.graph_def import node, numbers, shape, text
from testkit.networks import Floats, Network, onnx_blob, torchscript

BACKENDS = ("ONNX", "TORCH", "TF", "TFLITE")
SIDE, CLASSES = 224, 1000
STEM, HEAD = 32, 1280
# Version 1: channels and stride of each block.
FIRST = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
# Version 2, of each stage: how many times its blocks widen, channels, blocks, and the stride of the first.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass(slots=True, frozen=True)
class Conv:
    """A convolution with bias, and ReLU6 where it is to follow."""

    weights: Floats  # output and input channels, height, width
    bias: Floats
    stride: int
    relu: bool

    @property
    def depthwise(self) -> bool:
        return bool(self.weights.shape[1] == 1)

    @property
    def pads(self) -> tuple[int, int]:
        """Left and right, as above and below, of an even side."""
        return (0, 0) if self.weights.shape[2] == 1 else (0, 1) if self.stride == 2 else (1, 1)


@dataclass(slots=True, frozen=True)
class Block:
    """Convolutions one after the other; their input is added to what comes out where that is residual."""

    convs: tuple[Conv, ...]
    residual: bool = False


@dataclass(slots=True, frozen=True)
class MobileNet:
    """The blocks, the mean over all pixels, and one dense layer."""

    blocks: tuple[Block, ...]
    weights: Floats
    bias: Floats


def network(version: int = 2) -> MobileNet:
    random = np.random.default_rng(42)

    def draw(*sizes: int, scale: float) -> Floats:
        drawn: Floats = random.standard_normal(sizes, dtype=np.float32) * np.float32(scale)
        return drawn

    def conv(n: int, m: int, side: int, stride: int = 1, relu: bool = True) -> Conv:
        scale = ((2 if relu else 1) / (n * side * side)) ** 0.5
        return Conv(draw(m, n, side, side, scale=scale), draw(m, scale=0.1), stride, relu)

    blocks = [Block((conv(3, STEM, 3, 2),))]
    channels = STEM
    if version == 1:
        for out, stride in FIRST:
            blocks.append(Block((conv(1, channels, 3, stride), conv(channels, out, 1))))
            channels = out
    else:
        for widening, out, count, first in STAGES:
            for stride in (first, *[1] * (count - 1)):
                wide = channels * widening
                convs = (conv(1, wide, 3, stride), conv(wide, out, 1, relu=False))
                widen = (conv(channels, wide, 1),) if widening > 1 else ()
                blocks.append(Block((*widen, *convs), stride == 1 and channels == out))
                channels = out
        blocks.append(Block((conv(channels, HEAD, 1),)))
        channels = HEAD
    return MobileNet(tuple(blocks), draw(channels, CLASSES, scale=(1 / channels) ** 0.5), draw(CLASSES, scale=0.1))


def images(backend: str, count: int = 1, side: int = SIDE) -> Floats:
    """So many different ones, in the layout of the library."""
    pixels = np.random.default_rng(7).standard_normal((count, side, side, 3), dtype=np.float32)
    return pixels if backend in ("TF", "TFLITE") else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def mobilenet(backend: str, side: int = SIDE, version: int = 2) -> Network:
    """The model for images of that side. TORCH needs PyTorch here; TFLITE TensorFlow, whose converter makes it."""
    made = network(version)
    build = {"ONNX": onnx_model, "TORCH": torch_model, "TF": graph_def, "TFLITE": flatbuffer}[backend]
    return Network(
        backend,
        build(made, side),
        inputs=("x",),
        outputs=("y",),
        feeds=(("x", images(backend, 1, side)),),
        output=answer(made, images("TF", 1, side)),
    )


def answer(made: MobileNet, x: Floats) -> Floats:
    """What the network makes of images in the layout of TF, by nothing but NumPy."""
    for block in made.blocks:
        before = x
        for conv in block.convs:
            x = _convolved(conv, x)
        x = x + before if block.residual else x
    y: Floats = x.mean(axis=(1, 2)) @ made.weights + made.bias
    return y


def _convolved(conv: Conv, x: Floats) -> Floats:
    side, height, width = conv.weights.shape[2], x.shape[1] // conv.stride, x.shape[2] // conv.stride
    padded = np.pad(x, ((0, 0), conv.pads, conv.pads, (0, 0)))
    y = np.zeros((len(x), height, width, len(conv.weights)), np.float32)
    for row, column in np.ndindex(side, side):
        seen = padded[:, row :: conv.stride, column :: conv.stride][:, :height, :width]
        weights = conv.weights[:, :, row, column]
        y += seen * weights[:, 0] if conv.depthwise else seen @ weights.T
    y += conv.bias
    return np.clip(y, 0, 6) if conv.relu else y


# ---- ONNX ----


def onnx_model(made: MobileNet, side: int) -> bytes:
    nodes: list[NodeProto] = []
    weights = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}

    def add(op: str, *inputs: str, **attributes: Any) -> str:
        y = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [y], **attributes))
        return y

    def constant(value: Floats) -> str:
        weights[name := f"w{len(weights)}"] = value
        return name

    x = "x"
    for block in made.blocks:
        before = x
        for conv in block.convs:
            low, high = conv.pads
            group = len(conv.weights) if conv.depthwise else 1
            shapes = {"kernel_shape": conv.weights.shape[2:], "strides": [conv.stride] * 2, "group": group}
            x = add("Conv", x, constant(conv.weights), constant(conv.bias), pads=[low, low, high, high], **shapes)
            x = add("Clip", x, "zero", "six") if conv.relu else x
        x = add("Add", x, before) if block.residual else x
    x = add("Flatten", add("GlobalAveragePool", x))
    nodes.append(helper.make_node("Gemm", [x, constant(made.weights), constant(made.bias)], ["y"]))
    return onnx_blob(nodes, weights, ["n", 3, side, side], ["n", CLASSES])


# ---- TORCH ----


def torch_model(made: MobileNet, side: int) -> bytes:
    """Takes images of any side."""
    import torch

    class Residual(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x)  # type: ignore[no-any-return]

    def block_modules(block: Block) -> list[torch.nn.Module]:
        modules: list[torch.nn.Module] = []
        for conv in block.convs:
            low, high = conv.pads
            if low != high:
                modules.append(torch.nn.ZeroPad2d((low, high, low, high)))
            out, per_group, size, _ = conv.weights.shape
            groups = out if conv.depthwise else 1
            module = torch.nn.Conv2d(
                per_group * groups, out, size, conv.stride, 0 if low != high else low, groups=groups
            )
            module.weight.data, module.bias.data = torch.from_numpy(conv.weights), torch.from_numpy(conv.bias)  # type: ignore[union-attr]
            modules.append(module)
            if conv.relu:
                modules.append(torch.nn.ReLU6())
        return [Residual(torch.nn.Sequential(*modules))] if block.residual else modules

    dense = torch.nn.Linear(*made.weights.shape)
    dense.weight.data, dense.bias.data = torch.from_numpy(made.weights.T.copy()), torch.from_numpy(made.bias)
    modules = [module for block in made.blocks for module in block_modules(block)]
    return torchscript(torch.nn.Sequential(*modules, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), dense))


# ---- TF, TFLITE ----


def graph_def(made: MobileNet, side: int) -> bytes:
    graph, count, x = node("x", "Placeholder", more={"shape": shape((-1, side, side, 3))}), 0, "x"

    def add(op: str, inputs: str, constant: NDArray[Any] | None = None, more: dict[str, bytes] | None = None) -> str:
        nonlocal graph, count
        count += 1
        if constant is not None:
            graph += node(f"w{count}", "Const", constant=constant)
            inputs += f" w{count}"
        graph += node(f"v{count}", op, inputs, more=more)
        return f"v{count}"

    for block in made.blocks:
        before = x
        for conv in block.convs:
            # Height, width, input and output channels; depthwise: those of the input, and one for each of these.
            weights = conv.weights.transpose((2, 3, 0, 1) if conv.depthwise else (2, 3, 1, 0))
            more = {"strides": numbers((1, conv.stride, conv.stride, 1)), "padding": text("SAME")}
            x = add("DepthwiseConv2dNative" if conv.depthwise else "Conv2D", x, weights, more)
            x = add("BiasAdd", x, conv.bias)
            x = add("Relu6", x) if conv.relu else x
        x = add("AddV2", f"{x} {before}") if block.residual else x
    x = add("Mean", x, np.array([1, 2], np.int32))
    x = add("MatMul", x, made.weights)
    graph += node("bias", "Const", constant=made.bias)
    return graph + node("y", "BiasAdd", f"{x} bias")


def flatbuffer(made: MobileNet, side: int) -> bytes:
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef.FromString(graph_def(made, side))
    function = tf.compat.v1.wrap_function(
        lambda x: tf.import_graph_def(definition, {"x": x}, ["y:0"]), [tf.TensorSpec((None, side, side, 3), tf.float32)]
    )
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
