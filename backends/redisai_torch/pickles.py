"""Refuses archives whose tensors reach beyond their data. The loader enters; no state.

The library believes what an archive says about tensors: how many elements a record holds, where in them a tensor lies.
It reads and writes there. So refuse_tensors() reads the archive's pickles first. It makes stand-ins of all objects, and
understands no more of the format than the library's own reader does.
"""

from __future__ import annotations

import io
import math
import operator
import pickle
import struct
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

# Bytes of an element. Types of less than a byte are missing: the library computes their place as if they had one.
ITEM_BYTES = {
    "Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Int": 4, "Long": 8, "UInt16": 2, "UInt32": 4, "UInt64": 8,
    "Half": 2, "BFloat16": 2, "Float": 4, "Double": 8, "ComplexHalf": 4, "ComplexFloat": 8, "ComplexDouble": 16,
    "Float8_e5m2": 1, "Float8_e4m3fn": 1, "Float8_e5m2fnuz": 1, "Float8_e4m3fnuz": 1, "Float8_e8m0fnu": 1,
    "QInt8": 1, "QUInt8": 1, "QInt32": 4,
}  # fmt: skip
PER_CHANNEL = ("per_channel_affine", "per_channel_affine_float_qparams")
LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")
OBJECTS = {("torch", "device"), ("collections", "OrderedDict"), ("builtins", "complex")}
MAX_BYTES = 64 << 20
MAX_ELEMENTS = 1 << 56  # the library multiplies sizes
HOSTILE = "the archive is damaged or hostile"


class _Type(NamedTuple):
    item_bytes: int


class _Storage(NamedTuple):
    record: str
    elements: int


class _Tensor(NamedTuple):
    shape: tuple[int, ...]


class _Object:
    """Whatever else the archive names: a module, a device."""

    def __init__(self, state: object) -> None:
        self.state = state


def refuse_tensors(name: str, read: Callable[[str], bytes], size_of: Callable[[str], int]) -> None:
    """name: of the pickle in the archive; read and size_of tell what a record of the archive has."""
    if size_of(name) > MAX_BYTES:
        raise ValueError(f"the model is too large: its {name} has more than {MAX_BYTES} bytes")
    try:
        found = _Reader(name, read(name), size_of).load()
        _Depth(io.BytesIO()).dump(found)  # Python limits how deep this nests; the library would overflow the stack
    except _Hostile:
        raise
    except Exception as error:
        raise RuntimeError(f"the model is no TorchScript archive: its {name} cannot be read: {error!r}") from None


class _Hostile(ValueError):
    pass


class _Depth(pickle.Pickler):
    """Goes into lists, tuples and dictionaries only."""

    def reducer_override(self, obj: object) -> Any:
        return NotImplemented if obj is object else (object, ())


# The library knows these only. pickle's other reader, in C, would take any number of bytes for its memo.
_OPCODES = [
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1,
    pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1,
    pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.LIST, pickle.APPENDS, pickle.EMPTY_DICT, pickle.DICT,
    pickle.SETITEM, pickle.SETITEMS, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET,
    pickle.GLOBAL, pickle.NEWOBJ, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID,
]  # fmt: skip


class _Reader(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES}
    read: Callable[[int], bytes]
    stack: list[Any]
    memo: dict[int, Any]

    def __init__(self, name: str, data: bytes, size_of: Callable[[str], int]) -> None:
        super().__init__(io.BytesIO(data), fix_imports=False)
        self._name = name
        self._folder = name.removesuffix(".pkl")
        self._bytes = len(data)
        self._size_of = size_of

    def load_long_binput(self) -> None:
        """The library's memo is a list, which it makes as long as the largest index."""
        (index,) = struct.unpack("<I", self.read(4))
        if index > self._bytes:
            raise _Hostile(f"{self._name} counts {index} objects: {HOSTILE}")
        self.memo[index] = self.stack[-1]

    def load_newobj(self) -> None:
        self.stack.pop()  # the library does no more: what makes the object is BUILD, with its state

    def load_reduce(self) -> None:
        argument = self.stack.pop()
        self.stack[-1] = self.stack[-1](argument)

    dispatch[pickle.LONG_BINPUT[0]] = load_long_binput
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.REDUCE[0]] = dispatch[pickle.BUILD[0]] = load_reduce

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in; what the library calls with an argument, takes one argument here."""
        if module.startswith("__torch__") or (module, name) in OBJECTS:
            return _Object
        if module == "torch.jit._pickle" and (name == "restore_type_tag" or name in LISTS):
            return operator.itemgetter(0)
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return self._tensor
        if module == "torch._utils" and name == "_rebuild_qtensor":
            return self._quantized
        if module == "torch" and name.removesuffix("Storage") in ITEM_BYTES:
            return _Type(ITEM_BYTES[name.removesuffix("Storage")])
        if module == "torch" and name in ("per_tensor_affine", *PER_CHANNEL):
            return name
        raise _Hostile(f"{self._name} has {module}.{name}, which models cannot have")

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _Type(item_bytes), str(key), str(), int(elements), *_):
                record = f"{self._folder}/{key}"
                size = self._size_of(record) if elements > 0 else 0
                if elements < 0 or elements * item_bytes > size:
                    raise _Hostile(f"{record} has {size} bytes, not {elements} elements of {item_bytes}: {HOSTILE}")
                return _Storage(record, elements)
        raise _Hostile(f"{self._name} describes a storage in another way than the library does: {HOSTILE}")

    def _tensor(self, arguments: Any) -> _Tensor:
        match arguments:
            case (_Storage(record, elements), int(offset), tuple(shape), tuple(strides), *_) if len(shape) == len(
                strides
            ) and all(isinstance(number, int) for number in (*shape, *strides)):
                end = offset + 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
                if min((offset, *shape, *strides)) < 0 or (end > elements and 0 not in shape):
                    raise _Hostile(
                        f"a tensor of shape {list(shape)}, strides {list(strides)} and offset {offset} reaches beyond"
                        f" the {elements} elements of {record}: {HOSTILE}"
                    )
                if max(math.prod(size or 1 for size in shape), offset) >= MAX_ELEMENTS:
                    raise _Hostile(f"a tensor of shape {list(shape)} in {record} is too large: {HOSTILE}")
                return _Tensor(shape)
        raise _Hostile(f"{self._name} describes a tensor in another way than the library does: {HOSTILE}")

    def _quantized(self, arguments: Any) -> _Tensor:
        tensor = self._tensor(arguments)
        match arguments[4:]:
            case (("per_tensor_affine", float(), int(), *_), *_):
                return tensor
            case ((scheme, _Tensor(scales), _Tensor(zero_points), int(axis), *_), *_) if scheme in PER_CHANNEL:
                if 0 <= axis < len(tensor.shape) and scales == zero_points == tensor.shape[axis : axis + 1]:
                    return tensor
        raise _Hostile(f"a quantised tensor of shape {list(tensor.shape)} has scales for another shape: {HOSTILE}")
