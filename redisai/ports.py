"""What models say of their inputs and outputs: for AI.MODELGET and the errors of runs. Loader and workers enter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .dtypes import DTYPES, NUMBERS
from .protocol import Array, Port, Session, one_line


def ports_of(session: Session) -> tuple[Sequence[Port], Sequence[Port]]:
    """Those of the inputs, and those of the outputs."""
    found: tuple[Sequence[Port], Sequence[Port]] = getattr(session, "ports", ((), ()))
    return found


def texts_of(ports: Iterable[Port]) -> list[str]:
    """The items of a reply (Declared in src/bridge.h)."""
    return [text for port in ports for text in _texts(port)]


def _texts(port: Port) -> Iterator[str]:
    yield from ("[", "$name", f"${port.name}", "$dtype", "_" if port.dtype is None else f"${port.dtype}", "$shape")
    yield from ("_",) if port.shape is None else ("[", *[f":{size}" for size in port.shape], "]")
    if port.classes:
        yield from ("$classes", "[", *[f"${name}" for name in port.classes], "]")
    if port.type:
        yield from ("$type", f"${port.type}")
    if port.optional:
        yield from ("$optional", ":1")
    yield "]"


def least_inputs(session: Session) -> int:
    """The number of inputs without which a run is refused; -1: the model does not say."""
    return -1 if session.inputs is None else len(session.inputs) - sum(port.optional for port in ports_of(session)[0])


def explained(error: BaseException, ports: Sequence[Port], inputs: Sequence[Array]) -> BaseException:
    """The error of a run. It begins with the first input that is not what the model declares, if the library's own text
    does not name it."""
    text = one_line(error)
    for port, array in zip(ports, inputs, strict=False):
        misfit = _misfit(port, array)
        if misfit and f"input '{port.name}'" not in text and f"input: {port.name} " not in text:
            return RuntimeError(f"input '{port.name}' has {misfit}: {text}")
    return error


def _misfit(port: Port, array: Array) -> str | None:
    dtype = DTYPES[NUMBERS[array.dtype]].name if array.dtype in NUMBERS else str(array.dtype)
    if port.dtype is not None and not port.type and dtype != port.dtype:  # a number is made of any type
        return f"type {dtype}, expected: {port.dtype}"
    shape = port.shape
    if shape is None:
        return None
    if array.ndim == len(shape) and all(want in (-1, size) for size, want in zip(array.shape, shape, strict=True)):
        return None
    return f"shape {list(array.shape)}, expected: {list(shape)}"
