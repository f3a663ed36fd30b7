"""torchvision for the tests, also where its library was built for GPUs and PyTorch for none.

PyPI has no other build for x86. Stand-ins take the place of the libraries that are missing. They do nothing, which is
all that the operators for a CPU need of them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import subprocess
from pathlib import Path

import torch

# Each of these, and which of the symbols that the library needs it has.
MISSING = {
    "libcudart.so.13": re.compile(r"\bU ((?:__)?cuda\w+)"),
    "libc10_cuda.so": re.compile(r"\bU (_ZNK?3c104cuda\w+)"),
    "libtorch_cuda.so": re.compile(r"\bU (_ZN2at4cuda\w+)"),
}


def _library() -> Path:
    package = importlib.util.find_spec("torchvision")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "_C.so"


def make_stand_ins(folder: Path) -> dict[str, str]:
    """The environment in which a server can load torchvision's library."""
    symbols = subprocess.run(["nm", "-D", _library()], check=True, capture_output=True, text=True).stdout
    if torch.version.cuda is not None or "3c104cuda" not in symbols:
        return {}
    for name, pattern in MISSING.items():
        source, versions = folder / f"{name}.c", folder / f"{name}.map"
        source.write_text("".join(f"long {symbol}(void) {{ return 0; }}\n" for symbol in set(pattern.findall(symbols))))
        versions.write_text(f"{name} {{ global: *; }};\n")  # the versions of symbols are called as their library
        flags = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}"]
        subprocess.run(["cc", *flags, "-o", folder / name, source], check=True)
        ctypes.CDLL(str(folder / name))  # for this process
    return {"LD_LIBRARY_PATH": str(folder)}
