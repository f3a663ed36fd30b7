"""Says what a blob is that a backend has refused, and what to do. The loader enters; no state.

The library's own text tells people who bring a file of another kind only that it is damaged. Nothing here is asked
while a model loads, so that no guess keeps a sound model out. Blobs come from clients, so little is read of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from .protobuf import MalformedError, fields

SCRIPT = "save the model: torch.jit.script(model).save(path)"
PICKLE = f"torch.load(path) reads it; {SCRIPT}"
EXPORT = f"{SCRIPT}, or torch.onnx.export() for ONNX"
KERAS = 'keras.models.load_model(path).export(path, format="onnx") makes a file for ONNX'
SEND = "redis-cli -x AI.MODELSTORE ... BLOB < FILE sends that"
FREEZE = "freeze it: convert_variables_to_constants_v2() of TensorFlow makes a graph for TF"

MAX_PATH = 4096
PATH = re.compile(
    r"(/|~/|\.\.?/|[a-z]:\\)[^\0-\x1f]+|[^\0-\x1f]+\.(pt|pth|pt2|ts|onnx|pb|tflite|keras|h5|pkl|bin|zip)", re.IGNORECASE
)
TAIL = 1 << 20  # bytes at the end of an archive that are searched for names
MAX_FIELDS = 32  # of a protobuf message that are looked at
MAX_NAME = 256  # bytes of the name of an operation
MAX_NAMES = 64 << 10  # bytes of a pickle that are searched for names
GLOBAL = re.compile(rb"c([\w.]+)\n[\w.]+\n")
STATE_DICT = {b"collections", b"torch", b"torch._utils", b"torch._tensor"}


class Kind(NamedTuple):
    backend: str  # whose file this is, or ""
    what: str
    way_out: str


# What a file begins with, and where.
MAGIC: list[tuple[int, bytes, Kind]] = [
    (4, b"TFL3", Kind("TFLITE", "", "")),
    (0, b"\x89HDF\r\n\x1a\n", Kind("", "an HDF5 file, as Keras saves models (.h5)", KERAS)),
    (0, b"\x1f\x8b", Kind("", "a gzip file", "send what is in it")),
    (257, b"ustar", Kind("", "a tar file", "send the model that is in it")),
    (0, b"version https://git-lfs", Kind("", "a pointer of Git LFS, not the file", "fetch the file: git lfs pull")),
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", Kind("", "a pickle of torch.save", PICKLE)),
    (0, b"node {", Kind("", "a graph as text", "write it with as_graph_def().SerializeToString()")),
]


def explained(error: Exception, backend: str, blob: bytes | memoryview) -> str | None:
    """The text of an error with which a backend has refused a blob, with an explanation. None: there is none."""
    kind = _recognised(memoryview(blob))
    if kind is None or kind.backend == backend:
        return None
    what = kind.what or f"a{'n' * (kind.backend == 'ONNX')} {kind.backend} file, stored as {backend}"
    # The library takes any archive for a damaged one of its own. What it finds then leads nowhere.
    text = re.sub(r"^(the model is no TorchScript archive).*", r"\1", str(error), flags=re.DOTALL)
    joint = " This" if text.endswith(".") else ": this"
    return f"{text}{joint} is {what}" + f"; {kind.way_out}" * bool(kind.way_out)


def _recognised(blob: memoryview) -> Kind | None:
    for start, magic, kind in MAGIC:
        if blob[start : start + len(magic)] == magic:
            return kind
    for recognise in (_path, _archive, _pickle, _protobuf):
        with suppress(MalformedError):
            found = recognise(blob)
            if found is not None:
                return found
    return None


def _path(blob: memoryview) -> Kind | None:
    if not 0 < len(blob) <= MAX_PATH:
        return None
    with suppress(UnicodeDecodeError):
        if PATH.fullmatch(bytes(blob).decode().strip()):
            return Kind("", "the path of a file, not what is in it", SEND)
    return None


def _archive(blob: memoryview) -> Kind | None:
    if bytes(blob[:2]) != b"PK":
        return None
    names = dict(_members(blob))
    inner = {name.rpartition(b"/")[2]: start for name, start in names.items()}
    if b"constants.pkl" in inner:
        return Kind("TORCH", "", "")
    if b"archive_format" in inner or b"serialized_exported_program.json" in inner:
        return Kind("", "an archive of torch.export (.pt2)", EXPORT)
    if b"data.pkl" in inner:
        modules = set(GLOBAL.findall(bytes(blob[inner[b"data.pkl"] :][:MAX_NAMES])))
        if modules <= STATE_DICT:
            return Kind("", "a state_dict of torch.save", f"load_state_dict() reads it; {SCRIPT}")
        return Kind("", "a whole module of torch.save", PICKLE)
    if {b"metadata.json", b"config.json"} <= names.keys():
        return Kind("", "a Keras file (.keras)", KERAS)
    return Kind("", "a zip archive", "send the model that is in it")


def _members(blob: memoryview) -> Iterator[tuple[bytes, int]]:
    """Name and place of each member, as the directory at the end of the archive has them."""
    tail = bytes(blob[-TAIL:])
    for match in re.finditer(rb"PK\x01\x02", tail):
        at = match.start()
        size = int.from_bytes(tail[at + 28 : at + 30], "little")
        yield tail[at + 46 : at + 46 + size], int.from_bytes(tail[at + 42 : at + 46], "little")


def _pickle(blob: memoryview) -> Kind | None:
    if len(blob) < 3 or blob[0] != 0x80 or blob[1] not in (2, 3, 4, 5) or bytes(blob[-1:]) != b".":
        return None
    return Kind("", "a Python pickle", "convert what is in it to ONNX; for scikit-learn, skl2onnx does that")


def _protobuf(blob: memoryview) -> Kind | None:
    """The messages differ in what their fields are: numbers, or messages of their own."""
    first = list(islice(fields(blob), MAX_FIELDS))
    kinds = {number: type(value) for number, value in first[::-1]}
    if kinds.get(1) is int:
        if kinds.get(7) is memoryview and kinds.get(8) is memoryview:
            return Kind("ONNX", "", "")
        if kinds.keys() == {1, 2} and kinds[2] is memoryview:
            return Kind("", "the saved_model.pb of a SavedModel, whose weights are in other files", FREEZE)
    elif kinds.get(1) is memoryview and kinds.keys() <= {1, 2, 3, 4}:
        node = dict(islice(fields(first[0][1]), MAX_FIELDS)) if isinstance(first[0][1], memoryview) else {}
        operation = node.get(2)
        if isinstance(operation, memoryview) and re.fullmatch(rb"\w+", bytes(operation[:MAX_NAME])):
            return Kind("TF", "", "")
    return None
