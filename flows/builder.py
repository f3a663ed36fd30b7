"""GearsBuilder and gearsCtx: a reader and the steps that follow it, as a flow's code says them."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from flows import steps
from flows.steps import Function, Step


class Script(Protocol):
    """The code of RG.PYEXECUTE that is run now."""

    def run(self, builder: Context, argument: Any, words: dict[str, Any]) -> None: ...

    def register(self, builder: Context, words: dict[str, Any]) -> None: ...


SCRIPT: ContextVar[Script | None] = ContextVar("script", default=None)
READERS = (
    "KeysReader",
    "KeysOnlyReader",
    "StreamReader",
    "CommandReader",
    "PythonReader",
    "ShardsIDReader",
)
Self = TypeVar("Self", bound="Context")


def _identity(record: Any) -> Any:
    return record


def _script(what: str) -> Script:
    script = SCRIPT.get()
    if script is None:
        raise RuntimeError(f"{what}() is for the code of RG.PYEXECUTE itself, not for functions that its steps call")
    return script


class Context:
    """gearsCtx. Each method adds a step and returns the same object."""

    def __init__(self, reader: str = "KeysReader", desc: str | None = None, defaultArg: Any = "*") -> None:
        if reader not in READERS:
            raise ValueError(f"there is no reader {reader!r}: use {', '.join(READERS)}")
        self.reader = reader
        self.description = desc
        self.argument = defaultArg
        self.steps: list[Step] = []

    def _add(self: Self, step: Step) -> Self:
        self.steps.append(step)
        return self

    def map(self: Self, f: Function) -> Self:
        return self._add(steps.Map("map", f))

    def flatmap(self: Self, f: Function) -> Self:
        return self._add(steps.FlatMap("flatmap", f))

    def filter(self: Self, f: Function) -> Self:
        return self._add(steps.Filter("filter", f))

    def foreach(self: Self, f: Function) -> Self:
        return self._add(steps.ForEach("foreach", f))

    def accumulate(self: Self, f: Function) -> Self:
        return self._add(steps.Accumulate("accumulate", f))

    def aggregate(self: Self, zero: Any, seqOp: Function, combOp: Function) -> Self:
        return self._add(steps.Aggregate(zero, seqOp, combOp))

    def aggregateby(self: Self, extractor: Function, zero: Any, seqOp: Function, combOp: Function) -> Self:
        return self._add(steps.AggregateBy(extractor, zero, seqOp, combOp))

    def groupby(self: Self, extractor: Function, reducer: Function) -> Self:
        return self._add(steps.Grouped("groupby", extractor, reducer))

    localgroupby = groupby

    def batchgroupby(self: Self, extractor: Function, reducer: Function) -> Self:
        return self._add(steps.BatchGroupBy(extractor, reducer))

    def collect(self: Self) -> Self:
        """All records are here already: a flow runs on its own shard."""
        return self

    def repartition(self: Self, extractor: Function) -> Self:
        """Records stay here, as with collect()."""
        steps.Step("repartition", extractor)
        return self

    def count(self: Self) -> Self:
        return self._add(steps.Accumulate("count", lambda total, record: (total or 0) + 1))

    def countby(self: Self, extractor: Function = _identity) -> Self:
        return self._add(steps.Grouped("countby", extractor, lambda key, total, record: (total or 0) + 1))

    def avg(self: Self, extractor: Function = float) -> Self:
        steps.Step("avg", extractor)
        return self._add(steps.Average("avg", lambda total, record: (total or 0) + extractor(record)))

    def sort(self: Self, reverse: bool = True) -> Self:
        return self._add(steps.Sort(bool(reverse)))

    def distinct(self: Self) -> Self:
        return self._add(steps.Distinct("distinct"))

    def limit(self: Self, length: int, start: int = 0) -> Self:
        return self._add(steps.Limit(length, start))

    def run(self, arg: Any = None, convertToStr: bool = False, collect: bool = True, **words: Any) -> None:
        """Runs it over what exists, once the code has ended."""
        self._finish(convertToStr)
        _script("run").run(self, self.argument if arg is None else arg, words)

    def register(self, prefix: Any = None, convertToStr: bool = False, collect: bool = True, **words: Any) -> None:
        """Runs it on events, from the end of the code on."""
        self._finish(convertToStr)
        if prefix is not None:
            words["prefix"] = prefix
        _script("register").register(self, words)

    def _finish(self, to_text: bool) -> None:
        if to_text:
            self.steps.append(steps.Map("map", str))


class GearsBuilder(Context):
    def __init__(self, reader: str = "KeysReader", defaultArg: Any = "*", desc: str | None = None) -> None:
        super().__init__(reader, desc, defaultArg)

    def run(self, arg: Any = None, convertToStr: bool = True, collect: bool = True, **words: Any) -> None:
        super().run(arg, convertToStr, collect, **words)

    def register(self, prefix: Any = None, convertToStr: bool = True, collect: bool = True, **words: Any) -> None:
        super().register(prefix, convertToStr, collect, **words)


GLOBALS: dict[str, Callable[..., Any]] = {"GearsBuilder": GearsBuilder, "GB": GearsBuilder, "gearsCtx": Context}
