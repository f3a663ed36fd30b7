"""ONNX Runtime's C API, called in the library that the wheel brings. The Python package is never imported.

So the process has one copy of the library, and C can run its sessions. Loader and workers enter; everything here may be
called from several threads at once.

The API is a table of function pointers. New versions only append to it, so a function is known by its place in the
table. The places are those of onnxruntime_c_api.h, the same in every release since VERSION.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cffi

ffi: Any = cffi.FFI()
ffi.cdef("""
    typedef struct {
        const void *const *(*GetApi)(uint32_t version);
        const char *(*GetVersionString)(void);
    } OrtApiBase;
    const OrtApiBase *OrtGetApiBase(void);
    void *memmem(const void *, size_t, const void *, size_t);
""")

VERSION = 15  # of the API: ONNX Runtime 1.15 and later

# Most functions return a status, which is NULL for success.
STATUS = "void *(*)"
RELEASE = "void (*)(void *)"
FUNCTIONS = {
    "GetErrorMessage": (2, "const char *(*)(const void *)"),
    "CreateSessionFromArray": (8, f"{STATUS}(const void *, const void *, size_t, const void *, void **)"),
    "Run": (
        9,
        f"{STATUS}(void *, const void *, const char *const *, const void *const *, size_t, const char *const *, size_t,"
        " void **)",
    ),
    "CreateSessionOptions": (10, f"{STATUS}(void **)"),
    "SetSessionExecutionMode": (13, f"{STATUS}(void *, int)"),
    "SetSessionLogSeverityLevel": (22, f"{STATUS}(void *, int)"),
    "RegisterCustomOpsLibrary": (29, f"{STATUS}(void *, const char *, void **)"),
    "SessionGetInputCount": (30, f"{STATUS}(const void *, size_t *)"),
    "SessionGetOutputCount": (31, f"{STATUS}(const void *, size_t *)"),
    "SessionGetOverridableInitializerCount": (32, f"{STATUS}(const void *, size_t *)"),
    "SessionGetInputTypeInfo": (33, f"{STATUS}(const void *, size_t, void **)"),
    "SessionGetOutputTypeInfo": (34, f"{STATUS}(const void *, size_t, void **)"),
    "SessionGetOverridableInitializerTypeInfo": (35, f"{STATUS}(const void *, size_t, void **)"),
    "SessionGetInputName": (36, f"{STATUS}(const void *, size_t, void *, char **)"),
    "SessionGetOutputName": (37, f"{STATUS}(const void *, size_t, void *, char **)"),
    "SessionGetOverridableInitializerName": (38, f"{STATUS}(const void *, size_t, void *, char **)"),
    "CreateRunOptions": (39, f"{STATUS}(void **)"),
    "RunOptionsSetTerminate": (46, f"{STATUS}(void *)"),
    "CreateTensorAsOrtValue": (48, f"{STATUS}(void *, const int64_t *, size_t, int, void **)"),
    "CreateTensorWithDataAsOrtValue": (
        49,
        f"{STATUS}(const void *, void *, size_t, const int64_t *, size_t, int, void **)",
    ),
    "GetTensorMutableData": (51, f"{STATUS}(void *, void **)"),
    "GetStringTensorDataLength": (53, f"{STATUS}(const void *, size_t *)"),
    "GetStringTensorContent": (54, f"{STATUS}(const void *, void *, size_t, size_t *, size_t)"),
    "CastTypeInfoToTensorInfo": (55, f"{STATUS}(const void *, const void **)"),
    "GetOnnxTypeFromTypeInfo": (56, f"{STATUS}(const void *, int *)"),
    "GetTensorElementType": (60, f"{STATUS}(const void *, int *)"),
    "GetDimensionsCount": (61, f"{STATUS}(const void *, size_t *)"),
    "GetDimensions": (62, f"{STATUS}(const void *, int64_t *, size_t)"),
    "GetTensorShapeElementCount": (64, f"{STATUS}(const void *, size_t *)"),
    "GetTensorTypeAndShape": (65, f"{STATUS}(const void *, void **)"),
    "GetValueType": (67, f"{STATUS}(const void *, int *)"),
    "CreateCpuMemoryInfo": (69, f"{STATUS}(int, int, void **)"),
    "AllocatorAlloc": (75, f"{STATUS}(void *, size_t, void **)"),
    "AllocatorFree": (76, f"{STATUS}(void *, void *)"),
    "GetAllocatorWithDefaultOptions": (78, f"{STATUS}(void **)"),
    "GetValue": (80, f"{STATUS}(const void *, int, void *, void **)"),
    "GetValueCount": (81, f"{STATUS}(const void *, size_t *)"),
    "ReleaseStatus": (93, RELEASE),
    "ReleaseSession": (95, RELEASE),
    "ReleaseValue": (96, RELEASE),
    "ReleaseRunOptions": (97, RELEASE),
    "ReleaseTypeInfo": (98, RELEASE),
    "ReleaseTensorTypeAndShapeInfo": (99, RELEASE),
    "ReleaseSessionOptions": (100, RELEASE),
    "CastTypeInfoToSequenceTypeInfo": (104, f"{STATUS}(const void *, const void **)"),
    "GetSequenceElementType": (107, f"{STATUS}(const void *, void **)"),
    "CreateEnvWithGlobalThreadPools": (119, f"{STATUS}(int, const char *, const void *, void **)"),
    "DisablePerSessionThreads": (120, f"{STATUS}(void *)"),
    "CreateThreadingOptions": (121, f"{STATUS}(void **)"),
    "ReleaseThreadingOptions": (122, RELEASE),
    "GetAvailableProviders": (125, f"{STATUS}(char ***, int *)"),
    "ReleaseAvailableProviders": (126, f"{STATUS}(char **, int)"),
    "AddSessionConfigEntry": (130, f"{STATUS}(void *, const char *, const char *)"),
    "CreateAllocator": (131, f"{STATUS}(const void *, const void *, void **)"),
    "ReleaseAllocator": (132, RELEASE),
    "CreateAndRegisterAllocator": (144, f"{STATUS}(void *, const void *, const void *)"),
    "SetGlobalIntraOpNumThreads": (147, f"{STATUS}(void *, int)"),
    "SetGlobalInterOpNumThreads": (148, f"{STATUS}(void *, int)"),
    "SetGlobalSpinControl": (149, f"{STATUS}(void *, int)"),
    "CreateArenaCfg": (156, f"{STATUS}(size_t, int, int, int, void **)"),
    "ReleaseArenaCfg": (157, RELEASE),
    "AddRunConfigEntry": (165, f"{STATUS}(void *, const char *, const char *)"),
    "HasValue": (192, f"{STATUS}(const void *, int *)"),
    "SessionOptionsAppendExecutionProvider_CUDA_V2": (204, f"{STATUS}(void *, const void *)"),
    "CreateCUDAProviderOptions": (205, f"{STATUS}(void **)"),
    "UpdateCUDAProviderOptions": (206, f"{STATUS}(void *, const char *const *, const char *const *, size_t)"),
    "ReleaseCUDAProviderOptions": (208, RELEASE),
    "AddExternalInitializers": (210, f"{STATUS}(void *, const char *const *, const void *const *, size_t)"),
    "GetResizedStringTensorElementBuffer": (252, f"{STATUS}(void *, size_t, size_t, char **)"),
}


def _open() -> Any:
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'onnxruntime'")
    folder = Path(found.origin).parent / "capi"
    libraries = sorted(folder.glob("libonnxruntime.so.*"))
    if not libraries:
        raise ModuleNotFoundError(f"there is no libonnxruntime.so in {folder}: this onnxruntime is too old")
    # Else it reports to its makers (1.31 does), and writes what it reports into the home folder of the server's user.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # RTLD_LOCAL, the default, hides its symbols from other libraries.
    return ffi.dlopen(str(libraries[0]), os.RTLD_NOW | os.RTLD_NODELETE).OrtGetApiBase()


_base = _open()
_table = _base.GetApi(VERSION)
if not _table:
    raise ImportError(f"onnxruntime {ffi.string(_base.GetVersionString()).decode()} is too old")


def _checked(function: Any) -> Any:
    """The same function, except that it raises RuntimeError where the status is a failure."""

    def call(*arguments: Any) -> None:
        status = function(*arguments)
        if status:
            try:
                text = ffi.string(api.GetErrorMessage(status)).decode(errors="replace")
            finally:
                api.ReleaseStatus(status)
            raise RuntimeError(text)

    return call


functions = {name: ffi.cast(kind, _table[place]) for name, (place, kind) in FUNCTIONS.items()}
api: Any = SimpleNamespace(
    **{
        name: _checked(functions[name]) if kind.startswith(STATUS) else functions[name]
        for name, (_, kind) in FUNCTIONS.items()
    }
)


def version() -> str:
    return str(ffi.string(_base.GetVersionString()).decode())


def made(create: Any, *arguments: Any, release: Any = None) -> Any:
    """The object that create() stores through its last argument. Python releases it with the last reference."""
    where = ffi.new("void **")
    create(*arguments, where)
    return ffi.gc(where[0], release) if release is not None else where[0]


_libc = ffi.dlopen(None)


def contains(blob: bytes | memoryview, word: bytes) -> bool:
    """`word in blob`, which memoryview lacks; without the GIL."""
    return bool(_libc.memmem(ffi.from_buffer(blob), len(blob), word, len(word)))


allocator = made(api.GetAllocatorWithDefaultOptions)
cpu_memory = made(api.CreateCpuMemoryInfo, 0, 0)  # OrtDeviceAllocator, OrtMemTypeDefault: memory that callers own
