"""What clients and the log are told: replies as tokens of RG._PROCESS REPLY, errors in one line."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.connections import encode

ERROR_CHARACTERS = 4_000
_FOLDER = str(Path(__file__).parent)


def describe(error: BaseException) -> str:
    """An error in one line: what, and where in the flow's code. It must not raise, whatever the error is."""
    try:
        text = str(error)[:ERROR_CHARACTERS]
    except BaseException:
        text = "its text cannot be had: str() of the error raises"
    try:
        place, trace = "", error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if not code.co_filename.startswith(_FOLDER):
                file = "" if code.co_filename == "<flow>" else f" of {code.co_filename}"
                place = f" (line {trace.tb_lineno}{file}, in {code.co_name})"
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and error.filename == "<flow>":
            text, place = str(error.msg), f" (line {error.lineno})"
        return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"
    except BaseException:
        return "an error that cannot be described"


def tokens(value: Any, depth: int = 0) -> list[bytes]:
    """A reply as RG._PROCESS REPLY takes it."""
    kind = type(value)
    if kind is str:
        return [b"$" + encode(value)]
    if kind is bytes:
        return [b"$" + value]
    if value is None:
        return [b"_"]
    if isinstance(value, int):
        value = int(value)
        return [b":%d" % value] if -(1 << 63) <= value < 1 << 63 else [b"$%d" % value]
    if isinstance(value, (list, tuple)):
        if depth > 30:
            raise ValueError("the result has lists within lists, more than 30 deep")
        made = [b"*%d" % len(value)]
        for each in value:
            made += tokens(each, depth + 1)
        return made
    if isinstance(value, (str, bytes, bytearray, memoryview, float)):
        return [b"$" + encode(value)]
    if isinstance(value, dict):
        try:
            return [b"$" + json.dumps(value, ensure_ascii=False, default=str).encode()]
        except (ValueError, TypeError, RecursionError):
            pass
    return [b"$" + encode(str(value))]


def error_token(text: str) -> bytes:
    """Errors are one line, with a code in front."""
    line = " ".join(text.split())[:ERROR_CHARACTERS] or "error"
    code = line.partition(" ")[0]
    return b"-" + encode(line if code.isupper() and code.isalpha() else f"ERR {line}")


def complain(what: str, error: BaseException) -> None:
    with suppress(BaseException):
        print(f"{what} failed: {describe(error)}")
