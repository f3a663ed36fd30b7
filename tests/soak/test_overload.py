"""More runs than a slow model can do: the short form of scripts/overload."""

from __future__ import annotations

from testkit.load import build_load
from tests.conftest import StartServer
from tests.soak.overload import MAX_GET_MS, overload, problems


def test_every_request_has_an_answer_and_memory_is_level(start_server: StartServer) -> None:
    build_load()
    figures = overload(start_server(), connections=400, seconds=2, milliseconds=5)
    print(f"{figures.done} done, {figures.busy} refused; GET {figures.get_p50:.2f} and {figures.get_p99:.2f} ms")
    assert problems(figures) == []
    # On a machine that others use, too, one GET of a hundred waits for them.
    assert figures.get_p50 < MAX_GET_MS


def test_what_there_is_without_limits(start_server: StartServer) -> None:
    build_load()
    figures = overload(start_server(), connections=50, seconds=0.7, milliseconds=2, limits=False)
    assert problems(figures) == ["nothing was refused: that is no overload"]
