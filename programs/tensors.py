"""Tensors of the Open Inference Protocol: in JSON, or as binary data after it. redisai-http uses them."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from starlette.responses import Response

Array: TypeAlias = npt.NDArray[Any]
Fields: TypeAlias = dict[str, Any]

HEADER_LENGTH = "inference-header-content-length"
# The protocol's names of NumPy's dtypes.
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
NUMPY = {datatype: name for name, datatype in DATATYPES.items()}


class Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Wanted(NamedTuple):
    name: str
    is_binary: bool


def need(value: Any, kind: type[Any], what: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, int) and (isinstance(value, bool) or value < 0)):
        names = {dict: "an object", list: "a list", str: "a string", int: "a whole number of 0 or more"}
        raise Refused(400, f"{what} must be {names[kind]}")
    return value


def parameters_of(entry: Fields, what: str) -> Fields:
    parameters: Fields = need(entry.get("parameters", {}), dict, f"parameters of {what}")
    for name in "shared_memory_region", "classification":
        if name in parameters:
            raise Refused(400, f"{what}: {name} is not supported; leave it out")
    return parameters


def read_input(entry: Any, binary: memoryview) -> tuple[str, Array, memoryview]:
    """The name of an input, its array, and what is left of the binary data."""
    name = need(need(entry, dict, "an input").get("name"), str, "the name of an input")
    shape = [need(size, int, f"each size in the shape of {name}") for size in need(entry.get("shape"), list, "shape")]
    datatype = entry.get("datatype")
    if not isinstance(datatype, str) or datatype not in NUMPY:
        raise Refused(400, f"{name} has the datatype {datatype!r}; there are {', '.join(NUMPY)}")
    size = parameters_of(entry, name).get("binary_data_size")
    try:
        if size is None:
            array = from_json(entry.get("data"), NUMPY[datatype])
        else:
            if need(size, int, "binary_data_size") > len(binary):
                raise Refused(400, f"{name} has {size} bytes, but {len(binary)} are left in the body")
            array = from_bytes(binary[:size], NUMPY[datatype])
            binary = binary[size:]
        if array.size != math.prod(shape):
            raise ValueError(f"{array.size} elements, but the shape {shape}")
        return name, array.reshape(shape), binary
    except (ValueError, OverflowError, struct.error) as error:
        raise Refused(400, f"{name} as {datatype}: {error}") from None


def dtype_of(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes  # noqa: F401 - tells NumPy of bfloat16
    dtype: np.dtype[Any] = np.dtype(name).newbyteorder("<")
    return dtype


def from_json(data: Any, name: str) -> Array:
    if name == "object":
        array = np.asarray(need(data, list, "data"), object).ravel()
        if not all(isinstance(element, str) for element in array):
            raise ValueError("an element is no string")
        return array
    array = np.asarray(need(data, list, "data")).ravel()
    dtype = dtype_of(name)
    is_integer = dtype.kind in "iu"
    if is_integer and array.dtype.kind in "fO":  # as NumPy makes of large integers beside small ones
        array = np.asarray(data, object).ravel()
        fits = all(type(element) is int for element in array)
    else:
        fits = array.dtype.kind in {"b": "b", "f": "iuf"}.get(dtype.kind, "iu")
    if not fits:
        raise ValueError("an element does not fit")
    converted = array.astype(dtype)
    if is_integer and not np.array_equal(converted, array):
        raise ValueError("an element is too large or too small")
    return converted


def from_bytes(data: memoryview, name: str) -> Array:
    if name != "object":
        return np.frombuffer(data, dtype_of(name))
    elements, start = [], 0
    while start < len(data):
        (length,) = struct.unpack_from("<I", data, start)
        start += 4 + length
        if start > len(data):
            raise ValueError("an element is longer than the data")
        elements.append(bytes(data[start - length : start]))
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def to_bytes(array: Array) -> bytes:
    if array.dtype != object:
        return array.tobytes()  # the client's arrays are little-endian
    elements = [element.encode(errors="surrogateescape") for element in array.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def answer(head: Fields, outputs: Sequence[tuple[Wanted, Array]]) -> Response:
    described, blobs = [], []
    for wanted, array in outputs:
        entry: Fields = {
            "name": wanted.name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        if wanted.is_binary:
            blobs.append(to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        described.append(entry)
    try:
        text = json.dumps({**head, "outputs": described}, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        raise Refused(
            400, "JSON has neither NaN nor Infinity nor bytes that are no text: ask for binary_data"
        ) from None
    if not blobs:
        return Response(text, media_type="application/json")
    return Response(
        b"".join([text, *blobs]), media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(text))}
    )
