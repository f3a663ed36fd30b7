"""Steps of flows, without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flows.builder import GearsBuilder
from flows.steps import Aborted


class Run:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def fail(self, error: BaseException) -> None:
        self.errors.append(f"{type(error).__name__}: {error}")

    def wait(self, awaitable: Any) -> Any:
        try:
            awaitable.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("it waits")


def run(builder: GearsBuilder, *records: Any) -> tuple[list[Any], list[str]]:
    run, now = Run(), iter(records)
    for step in builder.steps:
        now = step.apply(now, run)
    return list(now), run.errors


def good(builder: GearsBuilder, *records: Any) -> list[Any]:
    results, errors = run(builder, *records)
    assert errors == []
    return results


def gb() -> GearsBuilder:
    return GearsBuilder("PythonReader")


def add(total: Any, record: Any) -> Any:
    return (total or 0) + record


@pytest.mark.parametrize(
    ("builder", "results"),
    [
        (gb().map(lambda x: x * 2), [6, 2, 4, 2]),
        (gb().filter(lambda x: x > 1), [3, 2]),
        (gb().foreach(lambda x: 7), [3, 1, 2, 1]),
        (gb().flatmap(lambda x: [x] * x), [3, 3, 3, 1, 2, 2, 1]),
        (gb().flatmap(lambda x: str(x)), ["3", "1", "2", "1"]),
        (gb().flatmap(range), [0, 1, 2, 0, 0, 1, 0]),
        (gb().accumulate(add), [7]),
        (gb().aggregate(10, add, add), [27]),
        (gb().aggregate([], lambda a, r: [*a, r], lambda a, r: a + r), [[3, 1, 2, 1]]),
        (gb().count(), [4]),
        (gb().avg(), [1.75]),
        (gb().avg(lambda x: x * 10), [17.5]),
        (gb().sort(), [3, 2, 1, 1]),
        (gb().sort(reverse=False), [1, 1, 2, 3]),
        (gb().distinct(), [3, 1, 2]),
        (gb().limit(2), [3, 1]),
        (gb().limit(length=2, start=1), [1, 2]),
        (gb().limit(0), []),
        (gb().collect().repartition(lambda x: x), [3, 1, 2, 1]),
        (gb().countby(), [{"key": 3, "value": 1}, {"key": 1, "value": 2}, {"key": 2, "value": 1}]),
        (gb().countby(lambda x: x > 1), [{"key": True, "value": 2}, {"key": False, "value": 2}]),
        (
            gb().groupby(lambda x: x % 2, lambda key, a, r: (a or 0) + r),
            [{"key": 1, "value": 5}, {"key": 0, "value": 2}],
        ),
        (gb().groupby(lambda x: x % 2, add), [{"key": 1, "value": 5}, {"key": 0, "value": 2}]),
        (
            gb().batchgroupby(lambda x: x % 2, lambda key, records: (key, records)),
            [{"key": 1, "value": (1, [3, 1, 1])}, {"key": 0, "value": (0, [2])}],
        ),
        (
            gb().aggregateby(lambda x: x % 2, [], lambda k, a, r: [*a, r], lambda k, a, r: a + r),
            [{"key": 1, "value": [3, 1, 1]}, {"key": 0, "value": [2]}],
        ),
    ],
)
def test_steps(builder: GearsBuilder, results: list[Any]) -> None:
    assert good(builder, 3, 1, 2, 1) == results


@pytest.mark.parametrize(
    "builder",
    [gb().accumulate(add), gb().count(), gb().avg(), gb().countby(), gb().aggregate(0, add, add), gb().sort()],
)
def test_nothing_comes_of_nothing(builder: GearsBuilder) -> None:
    assert good(builder) == []


def test_a_zero_is_not_shared() -> None:
    def append(total: list[int], record: int) -> list[int]:
        total.append(record)
        return total

    builder = gb().aggregate([], append, lambda a, r: a + r)
    assert good(builder, 1) == good(builder, 1) == [[1]]
    builder = gb().aggregateby(bool, [], lambda k, a, r: append(a, r), lambda k, a, r: a + r)
    assert good(builder, 1) == good(builder, 1) == [{"key": True, "value": [1]}]


def fail_at(value: int) -> Callable[..., Any]:
    def function(*words: Any) -> Any:
        if words[-1] == value:
            raise ValueError(value)
        return words[-1]

    return function


@pytest.mark.parametrize(
    ("builder", "results"),
    [
        (gb().map(fail_at(2)), [1, 3]),
        (gb().flatmap(fail_at(2)), [1, 3]),
        (gb().filter(fail_at(2)), [1, 3]),
        (gb().foreach(fail_at(2)), [1, 3]),
        (gb().accumulate(fail_at(2)), [3]),
        (gb().aggregate(0, fail_at(2), add), [3]),
        (gb().groupby(lambda x: 0, fail_at(2)), [{"key": 0, "value": 3}]),
        (gb().countby(fail_at(2)), [{"key": 1, "value": 1}, {"key": 3, "value": 1}]),
        (gb().avg(fail_at(2)), [2]),
    ],
)
def test_a_record_that_fails(builder: GearsBuilder, results: list[Any]) -> None:
    assert run(builder, 1, 2, 3) == (results, ["ValueError: 2"])


def test_whole_steps_that_fail() -> None:
    assert run(gb().sort(), 1, "a") == ([], ["TypeError: '<' not supported between instances of 'int' and 'str'"])
    assert run(gb().aggregate(0, add, fail_at(1)), 1) == ([], ["ValueError: 1"])
    assert run(gb().distinct(), 1, [], 2) == ([1, 2], ["TypeError: unhashable type: 'list'"])

    def broken(x: int) -> Iterator[int]:
        yield x
        raise ValueError(x)

    assert run(gb().flatmap(broken), 1) == ([], ["ValueError: 1"])


def test_async_functions() -> None:
    async def double(x: int) -> int:
        return x * 2

    async def plus(a: Any, r: int) -> Any:
        return (a or 0) + r

    assert gb().map(double).steps[0].is_async
    builder = gb().map(lambda x: double(x))
    assert not builder.steps[0].is_async
    assert good(builder, 1, 2) == [2, 4]
    assert builder.steps[0].is_async  # known from now on
    assert good(gb().accumulate(plus), 1, 2) == [3]
    assert good(gb().groupby(double, plus), 1, 1) == [{"key": 2, "value": 2}]


def test_limit_ends_what_is_before_it() -> None:
    taken: list[int] = []
    assert good(gb().foreach(taken.append).limit(2), *range(1000)) == [0, 1]
    assert taken == [0, 1]


def test_an_abort_is_no_error_of_a_record() -> None:
    def abort(*_: Any) -> None:
        raise Aborted

    for builder in (gb().map(abort), gb().accumulate(abort), gb().countby(abort), gb().aggregate(0, abort, add)):
        with pytest.raises(Aborted):
            run(builder, 1)


def test_mistakes() -> None:
    with pytest.raises(TypeError, match="filter\\(\\) needs a function, not NoneType"):
        gb().filter(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit\\(\\) needs"):
        gb().limit(-1)
    with pytest.raises(RuntimeError, match="run\\(\\) is for the code"):
        gb().run()
