"""What steps do with records. Nothing here knows of the server or of threads.

A step turns an iterator of records into another one, lazily, so that limit() ends what comes before it. A function
that raises makes its record an error; the others go on.

A function may be async: its step is a boundary then. start() calls it for all records, its awaitables are awaited
elsewhere, and join() goes on with what they gave.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeAlias

Function: TypeAlias = Callable[..., Any]
# Most values are of these types; no need to ask whether they can be awaited.
_PLAIN = frozenset({str, bytes, int, float, bool, list, dict, tuple, set, bytearray, type(None)})


class Aborted(BaseException):
    """Raised in the thread of an execution that is aborted."""


class Run(Protocol):
    """Whose records these are."""

    def fail(self, error: BaseException) -> None: ...

    def wait(self, awaitable: Any) -> Any:
        """Blocks until it has a value."""


def can_be_awaited(value: object) -> bool:
    return type(value) not in _PLAIN and hasattr(type(value), "__await__")


def is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _settle(run: Run, value: Any) -> Any:
    return run.wait(value) if can_be_awaited(value) else value


class Step:
    is_async = False
    is_plain = False  # its function is str

    def __init__(self, name: str, *functions: Function) -> None:
        self.name = name
        self.functions = functions
        for function in functions:
            if not callable(function):
                raise TypeError(f"{name}() needs a function, not {type(function).__name__}")

    def apply(self, records: Iterable[Any], run: Run) -> Iterator[Any]:
        raise NotImplementedError


class Each(Step):
    """A step whose function gets one record."""

    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name, function)
        self.function = function
        self.is_async = is_async(function)

    def result(self, record: Any, value: Any) -> Iterable[Any]:
        """What a record becomes."""
        raise NotImplementedError

    def apply(self, records: Iterable[Any], run: Run) -> Iterator[Any]:
        function = self.function
        for record in records:
            try:
                value = function(record)
                if type(value) not in _PLAIN and hasattr(type(value), "__await__"):
                    self.is_async = True  # from the next execution on
                    value = run.wait(value)
                made = self.result(record, value)
            except Aborted:
                raise
            except BaseException as error:
                run.fail(error)
                continue
            yield from made

    def start(self, records: Iterable[Any], run: Run) -> tuple[list[Any], list[Any]]:
        """Records, and for each what the function returned: mostly awaitables."""
        taken, values = [], []
        for record in records:
            try:
                value = self.function(record)
            except Aborted:
                raise
            except BaseException as error:
                run.fail(error)
                continue
            taken.append(record)
            values.append(value)
        return taken, values

    def join(self, records: Sequence[Any], outcomes: Iterable[tuple[bool, Any]], run: Run) -> Iterator[Any]:
        """What comes out of the step; an outcome is (True, value) or (False, error)."""
        for record, (is_good, value) in zip(records, outcomes, strict=True):
            if not is_good:
                run.fail(value)
                continue
            try:
                made = self.result(record, value)
            except Aborted:
                raise
            except BaseException as error:
                run.fail(error)
                continue
            yield from made


class Map(Each):
    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name, function)
        self.is_plain = function is str

    def result(self, record: Any, value: Any) -> Iterable[Any]:
        return (value,)


class FlatMap(Each):
    def result(self, record: Any, value: Any) -> Iterable[Any]:
        if isinstance(value, (str, bytes, bytearray, dict)) or not hasattr(type(value), "__iter__"):
            return (value,)
        return list(value)


class Filter(Each):
    def result(self, record: Any, value: Any) -> Iterable[Any]:
        return (record,) if value else ()


class ForEach(Each):
    def result(self, record: Any, value: Any) -> Iterable[Any]:
        return (record,)


class Accumulate(Step):
    """One record of all: f(a, r), where the first a is None. Nothing comes of nothing."""

    def first(self) -> Any:
        return None

    def last(self, total: Any, count: int, run: Run) -> Any:
        return total

    def apply(self, records: Iterable[Any], run: Run) -> Iterator[Any]:
        function, count = self.functions[0], 0
        total = self.first()
        for record in records:
            try:
                total = _settle(run, function(total, record))
            except Aborted:
                raise
            except BaseException as error:
                run.fail(error)
                continue
            count += 1
        if count:
            try:
                total = self.last(total, count, run)
            except Aborted:
                raise
            except BaseException as error:
                run.fail(error)
                return
            yield total


class Aggregate(Accumulate):
    """The parts of each shard are combined; there is one part, that of this shard."""

    def __init__(self, zero: Any, add: Function, combine: Function) -> None:
        super().__init__("aggregate", add, combine)
        self.zero = zero

    def first(self) -> Any:
        return copy.deepcopy(self.zero)

    def last(self, total: Any, count: int, run: Run) -> Any:
        return _settle(run, self.functions[1](self.first(), total))


class Average(Accumulate):
    def last(self, total: Any, count: int, run: Run) -> Any:
        return total / count


class Grouped(Step):
    """Records {'key', 'value'}, one a group."""

    def __init__(self, name: str, extractor: Function, *functions: Function) -> None:
        super().__init__(name, extractor, *functions)
        self.reduce = with_key(functions[0])

    def first(self) -> Any:
        return None

    def last(self, key: Any, value: Any, run: Run) -> Any:
        return value

    def apply(self, records: Iterable[Any], run: Run) -> Iterator[Any]:
        extractor, reduce = self.functions[0], self.reduce
        groups: dict[Any, Any] = {}
        for record in records:
            try:
                key = _settle(run, extractor(record))
                before = groups[key] if key in groups else self.first()
                groups[key] = _settle(run, reduce(key, before, record))
            except Aborted:
                raise
            except BaseException as error:
                run.fail(error)
        for key, value in groups.items():
            try:
                made = {"key": key, "value": self.last(key, value, run)}
            except Aborted:
                raise
            except BaseException as error:
                run.fail(error)
                continue
            yield made


class AggregateBy(Grouped):
    def __init__(self, extractor: Function, zero: Any, add: Function, combine: Function) -> None:
        super().__init__("aggregateby", extractor, add, combine)
        self.zero = zero
        self.combine = with_key(combine)

    def first(self) -> Any:
        return copy.deepcopy(self.zero)

    def last(self, key: Any, value: Any, run: Run) -> Any:
        return _settle(run, self.combine(key, self.first(), value))


class BatchGroupBy(Grouped):
    """The reducer gets a group's key and all its records."""

    def __init__(self, extractor: Function, reducer: Function) -> None:
        super().__init__("batchgroupby", extractor, lambda key, group, record: [*group, record])
        self.reduce = self._append
        self.reducer = reducer
        if not callable(reducer):
            raise TypeError(f"batchgroupby() needs a function, not {type(reducer).__name__}")

    @staticmethod
    def _append(key: Any, group: list[Any], record: Any) -> list[Any]:
        group.append(record)
        return group

    def first(self) -> Any:
        return []

    def last(self, key: Any, value: Any, run: Run) -> Any:
        return _settle(run, self.reducer(key, value))


class Sort(Step):
    def __init__(self, reverse: bool) -> None:
        super().__init__("sort")
        self.reverse = reverse

    def apply(self, records: Iterable[Any], run: Run) -> Iterator[Any]:
        every = list(records)
        try:
            every.sort(reverse=self.reverse)
        except Aborted:
            raise
        except BaseException as error:
            run.fail(error)
            return
        yield from every


class Distinct(Step):
    def apply(self, records: Iterable[Any], run: Run) -> Iterator[Any]:
        seen: set[Any] = set()
        for record in records:
            try:
                is_new = record not in seen
                seen.add(record)
            except Aborted:
                raise
            except BaseException as error:
                run.fail(error)
                continue
            if is_new:
                yield record


class Limit(Step):
    def __init__(self, length: int, start: int) -> None:
        super().__init__("limit")
        if length < 0 or start < 0:
            raise ValueError("limit() needs a length and a start of 0 or more")
        self.start, self.stop = start, start + length

    def apply(self, records: Iterable[Any], run: Run) -> Iterator[Any]:
        return islice(records, self.start, self.stop)


def with_key(function: Function) -> Function:
    """f(key, a, r); a function of two parameters gets a and r."""
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        return lambda key, total, record: function(total, record)
    except ValueError:  # a function of C that does not tell
        pass
    return function
