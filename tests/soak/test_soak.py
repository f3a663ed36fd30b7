"""A script that runs models of all four libraries, 50 clients at once: the short form of scripts/soak."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from testkit.networks import Floats
from testkit.server import Server
from tests.soak.chain import links
from tests.soak.lines import LineModel
from tests.soak.run import MAX_MEMORY_GROWTH, MAX_RSS_GROWTH, Growth
from tests.soak.soak import CLIENTS, Clients, Result, soak


@pytest.mark.parametrize("threads_per_queue", [1, 4])
def test_scripts_run_all_libraries_at_once(threads_per_queue: int) -> None:
    result = soak(threads_per_queue, seconds=6)
    assert result.check() == []
    assert result.runs > CLIENTS


def test_a_wrong_reply_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(link: LineModel, x: Floats) -> Floats:
        return link.line(x) + (link.backend == "TFLITE")

    monkeypatch.setattr(LineModel, "__call__", off_by_one)
    result = soak(1, seconds=0.5)
    assert result.runs == 0
    assert "a wrong reply" in result.check()[0]


def test_silence_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.soak.soak.WATCHDOG", 0.2)
    silent, result = Server(tmp_path), Result(1, 1)
    with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS) as listener:
        silent.port = listener.getsockname()[1]
        Clients(silent, links(), result).work(1)
    assert sum("no reply" in fault for fault in result.check()) == CLIENTS


def test_growth_is_a_fault() -> None:
    grown = Result(1, 1, growth=Growth([0, MAX_RSS_GROWTH + 1], [9, 0]))
    assert grown.check() == [f"RSS grew by {MAX_RSS_GROWTH + 1} bytes, more than {MAX_RSS_GROWTH}"]
    grown = Result(1, 1, growth=Growth([0, MAX_RSS_GROWTH], [0, MAX_MEMORY_GROWTH + 1]))
    assert grown.check() == [f"used_memory grew by {MAX_MEMORY_GROWTH + 1} bytes, more than {MAX_MEMORY_GROWTH}"]
