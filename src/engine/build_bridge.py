"""Turns bridge.h into the C source of the Python module `_redisai_bridge` (cffi's API mode).

Run by CMake: build_bridge.py <bridge.h> <output.c>. The declarations are bridge.h itself without its preprocessor
lines other than integer constants, so C and Python cannot disagree about a struct or a function.
"""

import re
import sys
from pathlib import Path

from cffi import FFI


def declarations(header: str) -> str:
    """What cffi can parse of a header: everything but directives, integer constants kept."""
    lines = header.splitlines()
    return "\n".join(line for line in lines if not line.startswith("#") or re.match(r"#define \w+ -?\d+\b", line))


def main() -> None:
    header, output = map(Path, sys.argv[1:])
    ffi = FFI()
    ffi.cdef(re.sub(r"(#define \w+ -?\d+).*", r"\1", declarations(header.read_text())))
    ffi.set_source("_redisai_bridge", '#include "bridge.h"')
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    main()
