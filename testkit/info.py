"""What a server tells of itself, read: the fields of INFO, the module's sections of it, AI.INFO."""

from __future__ import annotations

import re
from typing import Any

from testkit.wire import Error, Wire, Word

TIMES = [f"{what}_time_{which}" for what in ("queue", "run") for which in ("mean", "p50", "p99", "max")]
DURATIONS = [f"{what}_duration" for what in ("queue", "input", "infer", "output")]
# What AI.INFO FULL tells beyond AI.INFO, in order.
FULL = [
    *("executions", "direct_executions", "average_batch", *TIMES, "deaths", "queued", "refused"),
    *("cache_hits", "cache_misses", "cache_entries", "cache_bytes"),
    *(*DURATIONS, "timeouts", "abandoned", "last_run", "batch_rows", "slowest"),
]


def info(wire: Wire, *sections: Word) -> dict[str, str]:
    """INFO's fields by name."""
    reply = wire.ask("INFO", *sections)
    if isinstance(reply, Error):
        raise RuntimeError(reply)
    return dict(re.findall(r"^([^#:\r\n]+):(.*?)\r?$", reply.decode(), re.MULTILINE))


def number(wire: Wire, field: str, section: str = "everything") -> int:
    return int(info(wire, section)[field])


def module_sections(wire: Wire, which: str) -> dict[str, dict[str, str]]:
    """Every section of the module, without the prefix that Redis gives to names."""
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in wire.ask("INFO", which).decode().split("\r\n"):
        if line.startswith("# "):
            current = {}
            if line.startswith("# ai_"):
                found[line[len("# ai_") :]] = current
        elif line.startswith("ai_"):
            name, value = re.fullmatch(r"ai_((?:[^:]|:\d)+):(.*)", line).groups()  # type: ignore[union-attr]
            current[name] = value  # a device has a colon too, and so may a value
    return found


def command_counts(wire: Wire) -> dict[str, int]:
    """How often each command was called, by its name in lower case."""
    fields = info(wire, "commandstats").items()
    calls = {name.removeprefix("cmdstat_").lower(): re.match(r"calls=(\d+)", value) for name, value in fields}
    return {name: int(found[1]) for name, found in calls.items() if found}


def ai_info(wire: Wire, key: Word = "m", *options: Word) -> dict[str, Any]:
    """AI.INFO's numbers by name."""
    reply = wire.ask("AI.INFO", key, *options)
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}


def full_ai_info(wire: Wire, key: str = "m") -> dict[str, Any]:
    """AI.INFO key FULL; fails where its numbers contradict each other."""
    found = ai_info(wire, key, "FULL")
    found["average_batch"] = average = float(found["average_batch"])
    if found["samples"] >= 0:
        assert average == (found["samples"] / found["executions"] if found["executions"] else 0)
    assert found["executions"] <= found["calls"]
    return found
