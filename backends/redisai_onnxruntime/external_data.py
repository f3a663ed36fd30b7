"""Refuses ONNX models with tensors in other files. The loader enters; no state."""

from __future__ import annotations

from redisai.protobuf import MalformedError, fields

from .c_api import contains

# For each message of an ONNX file that can hold tensors: which of its fields hold which of these messages.
GRAPH, NODE, ATTRIBUTE, TENSOR, SPARSE, FUNCTION, TRAINING, MODEL = range(8)
PARTS: dict[int, dict[int, int]] = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    TRAINING: {1: GRAPH, 2: GRAPH},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {},
}
DATA_LOCATION = 14  # field of TENSOR; 0: in the blob


def refuse_external_data(blob: bytes | memoryview) -> None:
    """Refuses a model with tensors in other files. Loading it would read files of the server that a client chose.

    Walks the blob's protobuf fields. A tensor names its file under the key "location", so most blobs need no walk. A
    blob that is not protobuf gets the library's own error text.
    """
    if not contains(blob, b"location"):
        return
    todo = [(MODEL, memoryview(blob))]
    try:
        while todo:
            part, message = todo.pop()
            for field, value in fields(message):
                if isinstance(value, memoryview):
                    inner = PARTS[part].get(field)
                    if inner is not None:
                        todo.append((inner, value))
                elif part == TENSOR and field == DATA_LOCATION and value:
                    raise PermissionError(
                        "the model keeps tensors in other files (external data), not in the blob: export it with"
                        " external_data=False, or write it anew as one file: onnx.save(onnx.load(path), path)"
                    )
    except MalformedError:
        raise ValueError("Failed to load model because protobuf parsing failed.") from None
