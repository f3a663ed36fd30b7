"""Steps with async functions, and steps over keys. tests/unit/test_flow_steps.py has the others."""

from __future__ import annotations

import pytest

from tests.flows.programs import Programs

FIVE = "GB('PythonReader', defaultArg=lambda: range(5))"


@pytest.mark.parametrize(
    ("step", "results"),
    [
        ("map(f)", ["0", "2", "4", "6", "8"]),
        ("flatmap(g)", ["0", "0", "1", "1", "2", "2", "3", "3", "4", "4"]),
        ("filter(f)", ["1", "2", "3", "4"]),
        ("foreach(f)", ["0", "1", "2", "3", "4"]),
        ("map(lambda x: f(x))", ["0", "2", "4", "6", "8"]),
        ("accumulate(add)", ["10"]),
        ("map(f).map(f).map(str).map(f)", ["00", "44", "88", "1212", "1616"]),
    ],
)
def test_async_functions(programs: Programs, step: str, results: list[str]) -> None:
    code = """
import asyncio
async def f(x):
    await asyncio.sleep(0 if isinstance(x, str) else (4 - x % 5) / 1000)
    return x * 2
async def g(x): return [x, x]
async def add(a, r): return (a or 0) + r
"""
    assert programs.run(f"{code}{FIVE}.{step}.run()") == results


def test_async_functions_run_together(programs: Programs) -> None:
    """The first waits for the last."""
    code = """
last = createFuture()
async def f(x):
    if x == 4:
        last.continueRun('done')
    return await last
"""
    assert programs.run(f"{code}{FIVE}.map(f).run()") == ["done"] * 5


def test_an_async_function_that_raises(programs: Programs) -> None:
    code = "async def f(x):\n  if x % 2: raise KeyError(x)\n  return x\n"
    results, errors = programs.execute(f"{code}{FIVE}.map(f).run()")
    assert results == [b"0", b"2", b"4"]
    assert errors == [b"KeyError: 1 (line 2, in f)", b"KeyError: 3 (line 2, in f)"]


def test_limit_ends_an_endless_reader(programs: Programs) -> None:
    code = "def forever():\n  n = 0\n  while True:\n    yield n\n    n += 1\n"
    assert programs.run(f"{code}GB('PythonReader').map(lambda x: x * x).limit(3, 2).run(forever)") == ["4", "9", "16"]
