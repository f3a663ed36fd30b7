"""Calls a library in a Python loop, in a process of its own: the comparison for a worker of the server.

    python -m bench.library_loop BACKEND MODEL-FILE THREADS OUTPUT INPUT...

INPUT and OUTPUT are files of np.save: the inputs of one request and the expected output. A batch repeats them. For each
line "BATCH SECONDS" on standard input, the process prints the rate in requests per second. A library runs as its
documentation says, with THREADS threads for an operation and one operation at a time. The allocator keeps freed memory,
since the library's best rate is wanted: with glibc's defaults, TORCH spends most of its time in page faults.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:  # the process itself does without what these import
    from testkit.networks import Floats, Network

Run: TypeAlias = "Callable[[Sequence[Floats]], Floats]"


def onnx(model: Path, threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0]


def torch(model: Path, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    module: Any = torch.jit.load(io.BytesIO(model.read_bytes()))  # type: ignore[no-untyped-call]

    def run(inputs: Sequence[Floats]) -> Floats:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, inputs)).numpy()  # type: ignore[no-any-return]

    return run


def tensorflow(model: Path, threads: int) -> Run:
    """Uses a session and make_callable, which is faster than a function of TensorFlow 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        definition = tf.compat.v1.GraphDef.FromString(model.read_bytes())
        tf.import_graph_def(definition, name="")
    feeds = [f"{node.name}:0" for node in definition.node if node.op == "Placeholder"]
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
    session = tf.compat.v1.Session(graph=graph, config=config)
    call = session.make_callable(f"{definition.node[-1].name}:0", feeds)
    return lambda inputs: call(*inputs)


def tflite(model: Path, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model.read_bytes(), num_threads=threads)
    feeds = [tensor["index"] for tensor in interpreter.get_input_details()]
    output = interpreter.get_output_details()[0]["index"]
    shapes: list[tuple[int, ...]] = []

    def run(inputs: Sequence[Floats]) -> Floats:
        if shapes != [array.shape for array in inputs]:
            shapes[:] = [array.shape for array in inputs]
            for number, shape in zip(feeds, shapes, strict=True):
                interpreter.resize_tensor_input(number, shape)
            interpreter.allocate_tensors()
        for number, array in zip(feeds, inputs, strict=True):
            interpreter.set_tensor(number, array)
        interpreter.invoke()
        return interpreter.get_tensor(output)  # type: ignore[no-any-return]

    return run


ROOT = Path(__file__).resolve().parent.parent
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
LIBRARIES: dict[str, Callable[[Path, int], Run]] = {
    "ONNX": onnx,
    "TORCH": torch,
    "TF": tensorflow,
    "TFLITE": tflite,
}


class Library:
    """The process, as its parent sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def rate(self, batch: int, seconds: float) -> float:
        """Requests per second; each run has one batch."""
        assert self.process.stdin and self.process.stdout
        print(batch, seconds, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the library's process has ended")
        return float(line)

    def result(self, batch: int, seconds: float) -> dict[str, Any]:
        """The same as a side of a comparison."""
        return {"requests_per_s": self.rate(batch, seconds)}


@contextmanager
def library(model: Network, threads: int = 1) -> Iterator[Library]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").write_bytes(model.blob)
        words = [sys.executable, "-m", "bench.library_loop", model.backend, str(folder / "model"), str(threads)]
        for number, array in enumerate((model.output, *(feed for _, feed in model.feeds))):
            np.save(folder / f"{number}.npy", array)
            words.append(str(folder / f"{number}.npy"))
        pipe = subprocess.PIPE
        with subprocess.Popen(words, cwd=ROOT, env=os.environ | KEEP, stdin=pipe, stdout=pipe, text=True) as process:
            try:
                yield Library(process)
            finally:
                process.kill()


def main() -> None:
    backend, model, threads, *files = sys.argv[1:]
    run = LIBRARIES[backend](Path(model), int(threads))
    output, *feeds = [np.load(file) for file in files]
    for line in sys.stdin:
        batch, seconds = line.split()
        inputs = [np.repeat(feed, int(batch), 0) for feed in feeds]
        np.testing.assert_allclose(run(inputs), np.repeat(output, int(batch), 0), 1e-4, 1e-4)
        run(inputs)  # PyTorch generates code in the second run
        runs, start = 0, time.perf_counter()
        while time.perf_counter() < start + float(seconds) or runs < 2:
            run(inputs)
            runs += 1
        print(runs * int(batch) / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
