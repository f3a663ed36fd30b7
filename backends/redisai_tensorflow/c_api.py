"""TensorFlow's C API, called in the library that the wheel brings. The Python package is never imported.

Loading takes 0.3 s and 370 MB; the package takes several times as much. A run is three times as fast as through the
package. Loader and workers enter; everything here may be called from several threads at once.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import cffi

ffi: Any = cffi.FFI()
ffi.cdef("""
    typedef struct TF_Status TF_Status;
    typedef struct TF_Tensor TF_Tensor;
    typedef struct TF_Graph TF_Graph;
    typedef struct TF_Operation TF_Operation;
    typedef struct TF_Session TF_Session;
    typedef struct TF_SessionOptions TF_SessionOptions;
    typedef struct TF_ImportGraphDefOptions TF_ImportGraphDefOptions;
    typedef struct TF_DeviceList TF_DeviceList;
    typedef struct TF_Buffer { const void *data; size_t length; void (*deallocator)(void *, size_t); } TF_Buffer;
    typedef struct TF_Output { TF_Operation *operation; int index; } TF_Output;
    typedef struct TF_TString { uint64_t words[3]; } TF_TString;

    const char *TF_Version(void);
    TF_Buffer *TF_GetAllOpList(void);
    void TF_DeleteBuffer(TF_Buffer *);

    TF_Status *TF_NewStatus(void);
    void TF_DeleteStatus(TF_Status *);
    int TF_GetCode(const TF_Status *);
    const char *TF_Message(const TF_Status *);

    TF_Graph *TF_NewGraph(void);
    void TF_DeleteGraph(TF_Graph *);
    TF_ImportGraphDefOptions *TF_NewImportGraphDefOptions(void);
    void TF_DeleteImportGraphDefOptions(TF_ImportGraphDefOptions *);
    void TF_ImportGraphDefOptionsSetDefaultDevice(TF_ImportGraphDefOptions *, const char *);
    void TF_GraphImportGraphDef(TF_Graph *, const TF_Buffer *, const TF_ImportGraphDefOptions *, TF_Status *);
    TF_Operation *TF_GraphOperationByName(TF_Graph *, const char *);
    int TF_OperationNumOutputs(TF_Operation *);
    int TF_OperationOutputType(TF_Output);
    int TF_GraphGetTensorNumDims(TF_Graph *, TF_Output, TF_Status *);
    void TF_GraphGetTensorShape(TF_Graph *, TF_Output, int64_t *, int, TF_Status *);

    TF_SessionOptions *TF_NewSessionOptions(void);
    void TF_DeleteSessionOptions(TF_SessionOptions *);
    void TF_SetConfig(TF_SessionOptions *, const void *, size_t, TF_Status *);
    TF_Session *TF_NewSession(TF_Graph *, const TF_SessionOptions *, TF_Status *);
    void TF_DeleteSession(TF_Session *, TF_Status *);
    TF_DeviceList *TF_SessionListDevices(TF_Session *, TF_Status *);
    void TF_DeleteDeviceList(TF_DeviceList *);
    int TF_DeviceListCount(const TF_DeviceList *);
    const char *TF_DeviceListName(const TF_DeviceList *, int, TF_Status *);
    void TF_SessionRun(TF_Session *, const TF_Buffer *, const TF_Output *, TF_Tensor *const *, int, const TF_Output *,
                       TF_Tensor **, int, const TF_Operation *const *, int, TF_Buffer *, TF_Status *);

    TF_Tensor *TF_NewTensor(int, const int64_t *, int, void *, size_t, void (*)(void *, size_t, void *), void *);
    TF_Tensor *TF_AllocateTensor(int, const int64_t *, int, size_t);
    void TF_DeleteTensor(TF_Tensor *);
    int TF_TensorType(const TF_Tensor *);
    int TF_NumDims(const TF_Tensor *);
    int64_t TF_Dim(const TF_Tensor *, int);
    size_t TF_TensorByteSize(const TF_Tensor *);
    void *TF_TensorData(const TF_Tensor *);
    size_t TF_TensorDefaultAlignment(void);
    void TF_StringCopy(TF_TString *, const char *, size_t);
    const char *TF_StringGetDataPointer(const TF_TString *);
    size_t TF_StringGetSize(const TF_TString *);
    void TF_StringDealloc(TF_TString *);
""")


def _open() -> Any:
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'tensorflow'")
    # The client gets its errors as replies. What the library itself prints would reach nobody.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # On newer CPUs the library uses oneDNN unless told otherwise. Its MaxPool ends the process for an image that is
    # one pixel smaller than its window, and its convolutions answer with freed memory where the output should be empty.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # RTLD_LOCAL, the default, hides its symbols from other libraries. NODELETE: the library crashes when unloaded.
    library = ffi.dlopen(str(Path(found.origin).parent / "libtensorflow_cc.so.2"), os.RTLD_NOW | os.RTLD_NODELETE)
    # cffi looks a function up at its first use, under a lock. A session may be collected at any moment, also while its
    # thread has that lock: what frees it would wait for ever.
    for name in dir(library):
        getattr(library, name)
    return library


lib = _open()


def function(name: str) -> Any:
    """The address of a function that the engine calls from C (Direct of protocol.py)."""
    return ffi.addressof(lib, name)


def failure(text: str) -> Exception:
    return RuntimeError(text + "; BACKEND_MEMORY_LIMIT sets how much there is" * text.startswith("OOM when allocating"))


class Status:
    """The outcome of a call: with Status() as status: lib.TF_...(status.c); status.check()."""

    __slots__ = ("c",)

    def __init__(self) -> None:
        self.c = lib.TF_NewStatus()

    def __enter__(self) -> Status:
        return self

    def __exit__(self, *_: object) -> None:
        lib.TF_DeleteStatus(self.c)

    def check(self) -> None:
        if lib.TF_GetCode(self.c):
            raise failure(self.message())

    def message(self) -> str:
        return str(ffi.string(lib.TF_Message(self.c)).decode(errors="replace"))
