"""Judges the reports of the sanitizers: python reports.py FOLDER. Exits with 1 where one is about the shim.

- AddressSanitizer: a report with a frame of redisai.so in any of its stacks. One without is told, and is a library's.
- UBSan: every report, for only the shim is built with it.
- LeakSanitizer: a leak of memory that the shim asked for, itself or through redis-server, which by itself leaks
  nothing. What Python and its libraries keep is not ours. LeakSanitizer's suppressions cannot say that: they match a
  frame anywhere, and Python is in the stacks of what workers ask for, redisai.so at the bottom of Python's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

FRAME = re.compile(r"^\s*#\d+ 0x[0-9a-f]+ .*?\(([^()]+)\+(0x[0-9a-f]+)\)", re.MULTILINE)
LEAK = re.compile(r"^(?:Direct|Indirect) leak of \d+ byte\(s\) in (\d+) object\(s\)", re.MULTILINE)
SHIM = "redisai.so"
SERVER = re.compile(r"^(redis|valkey)-")
# What may stand before whoever asked for the memory.
BEFORE = re.compile(r"^(libasan|libubsan|libc\.|libjemalloc|libpthread|ld-linux)")


@cache
def source_of(module: str, offset: str) -> str:
    command = ["addr2line", "-fCse", module, offset]
    return " ".join(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split())


def with_sources(report: str) -> str:
    """The report, with function and line after each frame of the shim."""

    def told(frame: re.Match[str]) -> str:
        module, offset = frame.groups()
        return f"{frame[0]} {source_of(module, offset)}" if Path(module).name == SHIM else frame[0]

    return FRAME.sub(told, report)


def is_ours(leak: str) -> bool:
    for module, _ in FRAME.findall(leak):
        name = Path(module).name
        if not BEFORE.match(name):
            return name == SHIM or SERVER.match(name) is not None
    return False


def judge(report: str) -> tuple[list[str], Counter[str]]:
    """What of a report is about the shim, and how much of what is not."""
    ours: list[str] = []
    others: Counter[str] = Counter()
    faults, _, leaks = report.partition("ERROR: LeakSanitizer: detected memory leaks")
    if "LeakSanitizer has encountered a fatal error" in report or "Too many leaks!" in report:
        ours.append(report[:5000])
    elif "runtime error:" in faults:
        ours.append(faults)
    elif "ERROR: AddressSanitizer" in faults or "ERROR: UndefinedBehaviorSanitizer" in faults:
        if SHIM in faults:
            ours.append(faults)
        else:
            others["reports without a frame of the shim"] += 1
            print(faults)
    for leak in leaks.split("\n\n"):
        found = LEAK.search(leak)
        if found is None:
            continue
        if is_ours(leak):
            ours.append(leak)
        else:
            others["objects leaked by libraries"] += int(found[1])
    return ours, others


def main(folder: Path) -> int:
    bad, servers = 0, 0
    others: Counter[str] = Counter()
    for path in sorted(folder.glob("*")):
        ours, more = judge(path.read_text(errors="replace"))
        servers += 1
        others += more
        for text in ours:
            bad += 1
            print(f"---- {path.name}\n{with_sources(text.strip())}")
    for what, number in sorted(others.items()):
        print(f"{what}: {number}")
    print(f"{servers} reports, {bad} about the shim")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
