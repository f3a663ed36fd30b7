"""What tests/sanitize/reports.py takes for a fault of the shim in the reports of the sanitizers."""

from __future__ import annotations

import pytest

from tests.sanitize import reports

ASAN = "    #0 0x7f01 in __interceptor_malloc (/usr/lib/gcc/libasan.so.8+0xb89cf)\n"
SERVER = "    #1 0x55aa  (/usr/bin/redis-server+0x7be4e)\n"
SHIM = "    #2 0x7f02  (/nowhere/redisai.so+0x90181)\n"
PYTHON = "    #3 0x7f03 in PyObject_Call (/lib/x86_64-linux-gnu/libpython3.11.so.1.0+0x1d3a57)\n"


def leak(*frames: str) -> str:
    title = "Direct leak of 820 byte(s) in 5 object(s) allocated from:\n"
    return "\n=====\n==7==ERROR: LeakSanitizer: detected memory leaks\n\n" + title + "".join(frames) + "\nSUMMARY: x\n"


@pytest.mark.parametrize(
    ("frames", "ours", "others"),
    [
        ((ASAN, SHIM), 1, {}),
        ((ASAN, SERVER, SHIM, SERVER), 1, {}),
        ((ASAN, SHIM, PYTHON), 1, {}),  # Python called the bridge
        ((ASAN, PYTHON, SHIM), 0, {"objects leaked by libraries": 5}),  # the shim started Python
        ((ASAN, SERVER), 1, {}),
        ((ASAN,), 0, {"objects leaked by libraries": 5}),
    ],
)
def test_leaks(frames: tuple[str, ...], ours: int, others: dict[str, int]) -> None:
    found, counted = reports.judge(leak(*frames))
    assert (len(found), dict(counted)) == (ours, others)


@pytest.mark.parametrize(
    ("report", "ours"),
    [
        ("==7==ERROR: AddressSanitizer: heap-use-after-free\n" + ASAN + SHIM, 1),
        ("==7==ERROR: AddressSanitizer: SEGV on unknown address\n" + ASAN + PYTHON, 0),
        ("src/tensor.c:40:9: runtime error: signed integer overflow\n" + SHIM, 1),
        ("Tracer caught signal 11\n==7==LeakSanitizer has encountered a fatal error.\n", 1),
        ("", 0),
    ],
)
def test_faults(report: str, ours: int) -> None:
    assert len(reports.judge(report)[0]) == ours
