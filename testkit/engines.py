"""Engine processes (ISOLATION process), as INFO tells of them."""

from __future__ import annotations

from testkit.info import module_sections
from testkit.wire import Wire


def engines(wire: Wire) -> dict[str, dict[str, str]]:
    """The figures of each process, by device."""
    lines = module_sections(wire, "MODULES").get("processes", {})
    return {
        name.removeprefix("process_"): dict(pair.split("=", 1) for pair in line.split(","))
        for name, line in lines.items()
    }


def engine_pids(wire: Wire) -> dict[str, int]:
    """By device; 0 while it is down."""
    return {device: int(figures["pid"]) for device, figures in engines(wire).items()}
