"""What redisai-load finds in a folder: files by their suffix, and the models of a Triton model repository.

Settings of a file are those of the TOML beside it, of a Triton model those of its config.pbtxt. Both are read here and
become the arguments of model_store() in redisai_module.client.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from numpy.typing import NDArray
from redisai_module.client import DTYPES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BACKENDS = {
    ".onnx": "ONNX",
    ".pt": "TORCH",
    ".pth": "TORCH",
    ".torchscript": "TORCH",
    ".pb": "TF",
    ".graphdef": "TF",
    ".tflite": "TFLITE",
}
# Arguments of model_store(), and where the model goes.
SETTINGS: dict[str, type[str] | type[int] | type[list[Any]]] = {
    "key": str,
    "backend": str,
    "device": str,
    "tag": str,
    "batch_size": int,
    "min_batch_size": int,
    "min_batch_timeout_ms": int,
    "priority": str,
    "cache_bytes": int,
    "warmup": list,
    "inputs": list,
    "outputs": list,
}
CONFIG = "config.pbtxt"
_KIND_GPU = 1
# By the platform of a Triton model, or by its backend: the suffix of its file.
PLATFORMS = {
    "onnxruntime_onnx": ".onnx",
    "onnxruntime": ".onnx",
    "tensorflow_graphdef": ".graphdef",
    "tensorflow": ".graphdef",
    "pytorch_libtorch": ".pt",
    "pytorch": ".pt",
}


class Unusable(Exception):
    """A file that cannot be loaded. The message names it and says what to do."""


@dataclass(slots=True)
class Model:
    key: str
    path: Path
    settings: dict[str, Any]  # arguments of model_store()
    read: list[Path]  # every file that this depends on
    problems: list[str] = field(default_factory=list)  # what the server does in another way than the settings say


@dataclass(slots=True)
class Broken:
    """Something that should be a model."""

    path: Path
    error: str
    read: list[Path]


def find(paths: list[Path]) -> Iterator[Model | Broken]:
    """The models below some folders, and those of files, in the order of their names."""
    for path in paths:
        if not path.is_dir():
            yield _file(path, path.parent)
        elif _is_triton(path):
            yield _triton(path)
        else:
            yield from _folder(path, path)


def _folder(folder: Path, top: Path) -> Iterator[Model | Broken]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    models = [entry for entry in entries if entry.suffix.lower() in BACKENDS and entry.is_file()]
    for entry in entries:
        if entry in models:
            yield _file(entry, top)
        elif entry.suffix == ".toml" and entry.stem not in {model.stem for model in models}:
            suffixes = ", ".join(BACKENDS)
            yield Broken(entry, f"has no model beside it: {entry.stem} with one of the suffixes {suffixes}", [entry])
        elif entry.is_dir():
            yield from [_triton(entry)] if _is_triton(entry) else _folder(entry, top)


# ---- a file and its TOML ---------------------------------------------------------------------------------------------


def _file(path: Path, top: Path) -> Model | Broken:
    beside = path.with_suffix(".toml")
    read = [path, beside]
    try:
        if not path.exists():
            raise Unusable("is not there")
        if path.suffix.lower() not in BACKENDS:
            raise Unusable(f"has none of the suffixes {', '.join(BACKENDS)}; rename it")
        settings: dict[str, Any] = {"backend": BACKENDS[path.suffix.lower()]}
        if beside.exists():
            settings |= _settings(beside)
        if settings["backend"] == "TF" and not (settings.get("inputs") and settings.get("outputs")):
            raise Unusable(
                f'is a graph of TensorFlow: name its nodes in {beside.name}: inputs = ["…"], outputs = ["…"]'
            )
    except Unusable as error:
        return Broken(path, str(error), read)
    key = settings.pop("key", ":".join(path.relative_to(top).with_suffix("").parts))
    return Model(key, path, settings, read)


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Unusable(f"cannot be loaded: {path.name} cannot be read: {error}") from None
    for name, value in settings.items():
        if name not in SETTINGS:
            raise Unusable(f"cannot be loaded: {path.name} has {name!r}; there are {', '.join(SETTINGS)}")
        if (name, value) == ("batch_size", "auto"):
            continue
        kind = SETTINGS[name]
        items = value if isinstance(value, list) else []
        if type(value) is not kind or not all(isinstance(item, str) for item in items):
            wanted = {str: "a string", int: "a whole number", list: "a list of strings"}[kind]
            raise Unusable(f"cannot be loaded: {path.name}: {name} must be {wanted}, not {value!r}")
    if "warmup" in settings:
        settings["warmup"] = [_warmup(path, text) for text in settings["warmup"]]
    return settings


def _warmup(path: Path, text: str) -> list[NDArray[Any]]:
    """Inputs of one run: FLOAT 1 30, INT64 1."""
    try:
        words = [part.upper().split() for part in text.split(",")]
        shapes = [(dtype, [int(size) for size in sizes]) for dtype, *sizes in words]
        return [np.full(shape, "" if dtype == "STRING" else 0, DTYPES[dtype]) for dtype, shape in shapes]
    except (KeyError, TypeError, ValueError, MemoryError):
        wanted = 'a type and a shape for each input, as in "FLOAT 1 30, INT64 1"'
        raise Unusable(f"cannot be loaded: {path.name}: warmup must be {wanted}, not {text!r}") from None


# ---- a model of a Triton repository ----------------------------------------------------------------------------------


def _versions(folder: Path) -> list[int]:
    return sorted(int(entry.name) for entry in folder.iterdir() if re.fullmatch("[1-9][0-9]*", entry.name))


def _is_triton(folder: Path) -> bool:
    """Triton knows some models without a config.pbtxt: by the names model.onnx and so on in a numbered folder."""
    return (folder / CONFIG).is_file() or any(
        (folder / str(version) / f"model{suffix}").is_file()
        for version in _versions(folder)
        for suffix in PLATFORMS.values()
    )


def _triton(folder: Path) -> Model | Broken:
    read = [folder, folder / CONFIG]  # a new version changes the folder
    try:
        config = _config(folder / CONFIG) if (folder / CONFIG).is_file() else _message("ModelConfig")()
        versions = _versions(folder)
        if chosen := config.version_policy.specific.versions:
            versions = [version for version in versions if version in chosen]
        if not versions:
            raise Unusable("has no version: a folder named 1, 2, … with the model's file")
        path = _model_file(folder / str(versions[-1]), config)
        read.append(path)
        settings, problems = _triton_settings(config, path)
    except Unusable as error:
        return Broken(folder, str(error), read)
    return Model(config.name or folder.name, path, {**settings, "tag": str(versions[-1])}, read, problems)


def _model_file(version: Path, config: Any) -> Path:
    platform = config.platform or config.backend
    if platform and platform not in PLATFORMS:
        known = ", ".join(PLATFORMS)
        raise Unusable(
            f"{CONFIG} says {platform}, which no library here runs ({known}); export the model, or move it away"
        )
    suffixes = [PLATFORMS[platform]] if platform else list(dict.fromkeys(PLATFORMS.values()))
    named = config.default_model_filename
    if named and Path(named).name != named:
        raise Unusable(f"{CONFIG}: default_model_filename must be the name of a file, not {named!r}")
    candidates = [version / (named or f"model{suffix}") for suffix in suffixes]
    for path in candidates:
        if path.is_file():
            return path
    raise Unusable(f"{version.name}/{candidates[0].name} is not there; put the model's file there")


def _triton_settings(config: Any, path: Path) -> tuple[dict[str, Any], list[str]]:
    problems = []
    suffix = PLATFORMS.get(config.platform or config.backend, path.suffix)
    settings: dict[str, Any] = {"backend": BACKENDS[suffix]}
    if settings["backend"] == "TF":
        settings["inputs"], settings["outputs"] = ([end.name for end in ends] for ends in (config.input, config.output))
        if not (settings["inputs"] and settings["outputs"]):
            raise Unusable(f"is a graph of TensorFlow: name its nodes by input and output in {CONFIG}")
    groups = config.instance_group
    if groups:
        first = groups[0]
        is_gpu = first.kind == _KIND_GPU or bool(first.gpus)
        settings["device"] = f"GPU:{first.gpus[0]}" if first.gpus else "GPU" if is_gpu else "CPU"
        if len(groups) > 1 or len(first.gpus) > 1:
            problems.append(f"a model has one device here: {settings['device']}, the first that {CONFIG} names")
    batching = config.dynamic_batching
    delay_ms = math.ceil(batching.max_queue_delay_microseconds / 1000)
    if config.max_batch_size > 0:
        settings["batch_size"] = config.max_batch_size
        if delay_ms:  # else Triton does not wait for more requests either
            settings["min_batch_size"] = min(batching.preferred_batch_size, default=config.max_batch_size)
            settings["min_batch_timeout_ms"] = delay_ms
    return settings, problems


def _config(path: Path) -> Any:
    try:
        return text_format.Parse(path.read_text(), _message("ModelConfig")(), allow_unknown_field=True)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise Unusable(f"{path.name} cannot be read: {error}") from None


# The fields of Triton's ModelConfig that are read. Text has no field numbers, so any will do. Enums are words here.
_FIELDS = {
    "ModelConfig": "name:string platform:string backend:string default_model_filename:string max_batch_size:int32 "
    "input:*Tensor output:*Tensor instance_group:*Group dynamic_batching:Batching version_policy:Policy",
    "Tensor": "name:string",
    "Group": "kind:Kind gpus:*int32",
    "Batching": "preferred_batch_size:*int32 max_queue_delay_microseconds:uint64",
    "Policy": "specific:Specific",
    "Specific": "versions:*int64",
}


@cache
def _message(name: str) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="redisai_load.proto", package="redisai_load", syntax="proto3")
    kinds = file.enum_type.add(name="Kind")
    for number, kind in enumerate(("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")):
        kinds.value.add(name=kind, number=number)
    types = descriptor_pb2.FieldDescriptorProto
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for number, (field_name, kind) in enumerate((text.split(":") for text in fields.split()), 1):
            label = types.LABEL_REPEATED if kind.startswith("*") else types.LABEL_OPTIONAL
            kind = kind.lstrip("*")
            added = described.field.add(name=field_name, number=number, label=label)
            if kind[0].isupper():
                added.type = types.TYPE_ENUM if kind == "Kind" else types.TYPE_MESSAGE
                added.type_name = f".{file.package}.{kind}"
            else:
                added.type = types.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))
