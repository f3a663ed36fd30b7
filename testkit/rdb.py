"""Saved values as the released versions wrote them, encoded and decoded without the module.

Owns the tests' own reading of the layouts (tensor, model and script, encoding versions 0 to 4), of the container that
Redis puts around them (the payload of DUMP and RESTORE, and RDB files) and of nothing else. It shares no code with
the module on purpose: a mistake there must not be repeated here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testkit.dtypes import DTYPES
from testkit.values import Model, Script, Tensor, Value

TENSOR_TYPE = "AI_TENSOR"
MODEL_TYPE = "AI__MODEL"
SCRIPT_TYPE = "AI_SCRIPT"
VERSIONS = (0, 1, 2, 3, 4)

ELEMENT_TYPES = {name: (dtype.code, dtype.bits) for name, dtype in DTYPES.items()}
BACKENDS = {"TF": 0, "TFLITE": 1, "TORCH": 2, "ONNX": 3}

# What a module value is made of. Redis writes signed integers with the opcode for unsigned ones, as two's complement.
Field = int | bytes


# ---- the three layouts -----------------------------------------------------------------------------------------------


def tensor_fields(tensor: Tensor, version: int) -> list[Field]:
    code, bits = ELEMENT_TYPES[tensor.dtype]
    if version == 4:
        offsets: list[Field] = []
        if tensor.dtype == "STRING":
            offset = 0
            for text in tensor.elements or tensor.data.split(b"\0")[:-1]:
                offsets.append(offset)
                offset += len(text) + 1
        return [code, bits, len(tensor.shape), *tensor.shape, tensor.data, *offsets]
    strides: list[Field] = []
    stride = 1
    for dim in reversed(tensor.shape):
        strides.insert(0, stride)
        stride *= dim
    # device type 1 is DLPack's CPU; one lane; the data starts at byte 0
    return [1, 0, bits, code, 1, len(tensor.shape), *tensor.shape, *strides, 0, tensor.data]


def model_fields(model: Model, version: int, chunk: int = 535822336) -> list[Field]:
    tag = model.tag.encode()
    fields: list[Field] = [
        BACKENDS[model.backend],
        c_string(model.device),
        tag + b"\0" if version == 0 else tag,
        model.batchsize,
        model.minbatchsize,
    ]
    if version >= 2:
        fields.append(model.minbatchtimeout)
    fields += [len(model.inputs), *map(c_string, model.inputs), len(model.outputs), *map(c_string, model.outputs)]
    if version == 0:
        return [*fields, model.blob]
    chunks = [model.blob[start : start + chunk] for start in range(0, len(model.blob) + 1, chunk)]
    return [*fields, len(model.blob), len(chunks), *chunks]


def script_fields(script: Script, version: int) -> list[Field]:
    tag = script.tag.encode()
    fields: list[Field] = [
        c_string(script.device),
        tag + b"\0" if version == 0 else tag,
        c_string(script.source),
    ]
    if version >= 3:
        fields += [len(script.entry_points), *map(c_string, script.entry_points)]
    return fields


def c_string(text: str) -> bytes:
    return text.encode() + b"\0"


def fields_of(value: Value, version: int) -> tuple[str, list[Field]]:
    """The type name and the fields of a value."""
    if isinstance(value, Tensor):
        return TENSOR_TYPE, tensor_fields(value, version)
    if isinstance(value, Model):
        return MODEL_TYPE, model_fields(value, version)
    return SCRIPT_TYPE, script_fields(value, version)


# ---- DUMP payloads and RDB files -------------------------------------------------------------------------------------

# 9 is Redis 5's and 6's: the oldest that the released versions ran on, and every later server reads it.
RDB_VERSION = 9
TYPE_MODULE_2 = 7
OPCODE_EOF = 0
OPCODE_UINT = 2
OPCODE_STRING = 5
_NAME_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def dump(value: Value, version: int) -> bytes:
    """What DUMP answers for the value, and RESTORE takes."""
    type_name, fields = fields_of(value, version)
    return dump_fields(type_name, version, fields)


def dump_fields(type_name: str, version: int, fields: Sequence[Field]) -> bytes:
    return seal(bytes([TYPE_MODULE_2]) + module_value(type_name, version, fields))


def seal(body: bytes) -> bytes:
    """Adds the version and the checksum that RESTORE looks at first, so that the body itself gets read."""
    body += struct.pack("<H", RDB_VERSION)
    return body + struct.pack("<Q", crc64(body))


def module_value(type_name: str, version: int, fields: Sequence[Field]) -> bytes:
    out = [length(module_id(type_name, version))]
    for field in fields:
        if isinstance(field, bytes):
            out += [length(OPCODE_STRING), length(len(field)), field]
        else:
            out += [length(OPCODE_UINT), length(field % 2**64)]
    return b"".join([*out, length(OPCODE_EOF)])


def module_id(type_name: str, version: int) -> int:
    number = 0
    for character in type_name:
        number = number << 6 | _NAME_CHARACTERS.index(character)
    return number << 10 | version


def rdb_file(values: Mapping[str, bytes], expires: Mapping[str, int] | None = None) -> bytes:
    """An RDB file of one database. values: what module_value() made, by key; expires: by key, ms since the epoch."""
    out = [b"REDIS%04d" % RDB_VERSION]
    out += [b"\xfa", _string(b"redis-ver"), _string(b"5.0.7")]
    out += [b"\xfe", length(0), b"\xfb", length(len(values)), length(len(expires or {}))]
    for key, value in values.items():
        if expires and key in expires:
            out += [b"\xfc", struct.pack("<q", expires[key])]
        out += [bytes([TYPE_MODULE_2]), _string(key.encode()), value]
    content = b"".join([*out, b"\xff"])
    return content + struct.pack("<Q", crc64(content))


def _string(text: bytes) -> bytes:
    return length(len(text)) + text


def length(number: int) -> bytes:
    """Redis's length encoding: 6, 14, 32 or 64 bits, big-endian."""
    if number < 1 << 6:
        return bytes([number])
    if number < 1 << 14:
        return struct.pack(">H", 0x4000 | number)
    if number < 1 << 32:
        return b"\x80" + struct.pack(">I", number)
    return b"\x81" + struct.pack(">Q", number)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x95AC9329AC4BC9B5 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC_TABLE = _crc_table()


def crc64(data: bytes) -> int:
    """CRC-64 of Jones: reflected, starting from 0."""
    crc = 0
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[crc & 0xFF ^ byte]
    return crc


# ---- reading a DUMP payload back -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decoded:
    type_name: str
    version: int
    fields: list[Field]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        taken = self.data[self.position : self.position + count]
        assert len(taken) == count, f"payload ends at byte {self.position}"
        self.position += count
        return taken

    def length(self) -> tuple[int, bool]:
        """A length, or (number, True) for one of the special encodings of a string."""
        first = self.take(1)[0]
        kind = first >> 6
        if kind == 0:
            return first & 0x3F, False
        if kind == 1:
            return (first & 0x3F) << 8 | self.take(1)[0], False
        if kind == 3:
            return first & 0x3F, True
        if first == 0x80:
            return int.from_bytes(self.take(4), "big"), False
        assert first == 0x81, f"unknown length encoding {first:#x}"
        return int.from_bytes(self.take(8), "big"), False

    def number(self) -> int:
        number, special = self.length()
        assert not special
        return number

    def string(self) -> bytes:
        count, special = self.length()
        if not special:
            return self.take(count)
        if count in (0, 1, 2):  # short strings that look like integers are saved as those
            return b"%d" % int.from_bytes(self.take(1 << count), "little", signed=True)
        assert count == 3, f"unknown string encoding {count}"
        packed = self.number()
        unpacked = self.number()
        text = _lzf_decompress(self.take(packed))
        assert len(text) == unpacked
        return text


def _lzf_decompress(data: bytes) -> bytes:
    out = bytearray()
    position = 0
    while position < len(data):
        control = data[position]
        position += 1
        if control < 32:
            out += data[position : position + control + 1]
            position += control + 1
            continue
        count = control >> 5
        if count == 7:
            count += data[position]
            position += 1
        start = len(out) - ((control & 31) << 8 | data[position]) - 1
        position += 1
        for index in range(start, start + count + 2):
            out.append(out[index])
    return bytes(out)


def decode(payload: bytes) -> Decoded:
    """The fields in a DUMP payload; asserts that its container is whole."""
    body, checksum = payload[:-8], payload[-8:]
    assert struct.unpack("<Q", checksum)[0] == crc64(body)
    reader = _Reader(body[:-2])
    assert reader.take(1) == bytes([TYPE_MODULE_2])
    number = reader.number()
    version = number & 0x3FF
    type_name = "".join(_NAME_CHARACTERS[number >> (10 + 6 * place) & 0x3F] for place in range(8, -1, -1))
    fields: list[Field] = []
    while (opcode := reader.number()) != OPCODE_EOF:
        if opcode == OPCODE_UINT:
            fields.append(reader.number())
        else:
            assert opcode == OPCODE_STRING, f"unknown opcode {opcode}"
            fields.append(reader.string())
    assert reader.position == len(reader.data)
    return Decoded(type_name, version, fields)
