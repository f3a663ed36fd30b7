"""The functions that C calls in a library: their declarations must be those of bridge.h."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cffi
import pytest

from redisai.direct import api_of
from tests.unit.loading import NAMES, registry

ffi = cffi.FFI()
ffi.cdef("typedef struct Opaque Opaque;")

NEW_TENSOR = "void *(*)(int, const int64_t *, int, void *, size_t, void (*)(void *, size_t, void *), void *)"


def function_of(backend: str) -> Callable[[str], Any]:
    module: Any = registry.get(NAMES.index(backend))
    c_api = __import__(f"{module.__package__}.c_api", fromlist=["c_api"])
    function: Callable[[str], Any] = c_api.function if backend == "TF" else c_api.functions.__getitem__
    return function


def with_one(backend: str, name: str, kind: str) -> Callable[[str], Any]:
    """The backend's functions, but one of them declared like this."""
    function = function_of(backend)
    return lambda wanted: ffi.cast(kind, 1) if wanted == name else function(wanted)


@pytest.mark.parametrize("backend", ["ONNX", "TF"])
def test_our_backends_declare_what_c_calls(backend: str) -> None:
    assert api_of(backend, function_of(backend))


@pytest.mark.parametrize(
    ("backend", "name", "kind"),
    [
        ("ONNX", "GetDimensions", "Opaque *(*)(const Opaque *, int64_t *, size_t)"),
        ("ONNX", "ReleaseValue", "void (*)(void *)"),
        ("TF", "TF_Dim", "int64_t (*)(Opaque *, int)"),
        ("TF", "TF_NewTensor", NEW_TENSOR),
    ],
)
def test_a_pointer_to_a_struct_is_any_pointer(backend: str, name: str, kind: str) -> None:
    assert api_of(backend, with_one(backend, name, kind))


@pytest.mark.parametrize(
    ("backend", "name", "kind"),
    [
        ("ONNX", "GetDimensions", "void *(*)(const void *, int64_t *, int)"),
        ("ONNX", "GetDimensions", "void *(*)(const void *, int32_t *, size_t)"),
        ("ONNX", "GetDimensions", "void *(*)(const void *, int64_t *)"),
        ("ONNX", "GetDimensions", "void *(*)(const void *, int64_t *, size_t, ...)"),
        ("ONNX", "ReleaseValue", "int (*)(void *)"),
        ("ONNX", "ReleaseValue", "void (*)(void **)"),
        ("ONNX", "ReleaseValue", "void (*)(uint64_t)"),
        ("ONNX", "GetErrorMessage", "void *"),
        ("TF", "TF_Dim", "int (*)(const void *, int)"),
        ("TF", "TF_NewTensor", NEW_TENSOR.replace("(*)(void *, size_t, void *)", "(*)(void *, size_t)")),
    ],
)
def test_a_wrong_declaration_is_refused(backend: str, name: str, kind: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} is declared as .* by the {backend} backend, as .* by bridge.h$"):
        api_of(backend, with_one(backend, name, kind))


@pytest.mark.parametrize("backend", ["ONNX", "TF"])
def test_a_function_that_is_missing(backend: str) -> None:
    def function(name: str) -> Any:
        raise KeyError(name)

    with pytest.raises(KeyError, match="TF_NewTensor" if backend == "TF" else "CreateTensorWithDataAsOrtValue"):
        api_of(backend, function)


def test_every_library_that_c_runs_has_a_struct() -> None:
    with pytest.raises(Exception, match="TfliteApi"):
        api_of("TFLITE", function_of("ONNX"))
