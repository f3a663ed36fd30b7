"""Makes one short text of an error of TorchScript's interpreter: the reason, then where. Loader and workers enter; no
state.

The library's own text begins with tracebacks that quote the source. In a deep model they take kilobytes, and the reason
comes last.
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import PurePath

AT = "\n\nAt:\n"  # what follows are frames of Python, where one of our operators has raised the error
HERE = "<--- HERE\n"
FRAME = re.compile(r'File "([^"\n]*)", line (\d+), in (\w+)')
TRACED = re.compile(r"^([^\n]*)\((\d+)\): (\S+)\n", re.MULTILINE)  # a frame, of a model that was traced
REASON = re.compile(r"^(?:[\w.]*(?:Error|Exception)\w*|[A-Za-z_]\w*(?:\.\w+)+): ", re.MULTILINE)
SCRIPT = "<string>"  # the file of a script's functions
# The library's error texts for int("x") and float("x"), and ours.
UNCLEAR = {"stoll": "could not convert string to int", "stod": "could not convert string to float"}


def explain(error: Exception, hidden: Container[str] = ()) -> str:
    """hidden: functions that are ours, not the client's."""
    text = str(error).partition(AT)[0]
    end = text.rpartition(HERE)[2]
    reason = REASON.search(end)
    frames = [frame for frame in FRAME.findall(text) if frame[2] not in hidden]
    traced = TRACED.search(end)
    if traced is not None:
        frames = [traced.groups()]
    if reason is None or not frames:
        return text
    file, line, function = frames[-1]
    text = end[reason.end() :].rstrip(": \n") or reason.group().rstrip(": ")
    where = f"line {line}" if file == SCRIPT else f"line {line} of {PurePath(file).name}"
    return f"{UNCLEAR.get(text, text)} ({where}, in {function})"
