"""Measuring services that speak HTTP: the load generator against a server that answers as told, and real services."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import aibench, rivals
from bench.report import LATENCY_SHARES, Plan
from testkit.load import Load, Traffic, build_load, run_load

BODY = bytes(range(256)) * 4
HEAD = b"HTTP/1.1 200 OK\r\ndate: now\r\nContent-length: %d\r\nconnection: keep-alive\r\n\r\n"


@dataclass(slots=True, frozen=True)
class Stub:
    port: int


@contextmanager
def stub(answer: bytes, size: int = 1 << 20) -> Iterator[Stub]:
    """Answers each request, of no body, with these bytes, so many of them at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener, answer, size), daemon=True).start()
        yield Stub(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def accept(listener: socket.socket, answer: bytes, size: int) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=talk, args=(connection, answer, size), daemon=True).start()


def talk(connection: socket.socket, answer: bytes, size: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(ConnectionError), connection, connection.makefile("rb") as stream:
        for line in stream:
            if line == b"\r\n":
                for start in range(0, len(answer), size):
                    connection.sendall(answer[start : start + size])


def traffic(answer: bytes) -> Traffic:
    build_load()
    return Traffic(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n\r\n", answer, http=True)


@pytest.mark.parametrize("size", [1 << 20, 37, 1])
@pytest.mark.parametrize("body", [BODY, b""])
def test_answers_are_read_however_they_come(body: bytes, size: int) -> None:
    answer = HEAD % len(body) + body
    with stub(answer, size) as on, Load(on, traffic(body), connections=3, requests=20, pipeline=2) as load:
        load.start()
        result = load.finish()
    assert (result["requests"], result["errors"], result["commands_per_request"]) == (20, 0, 1)
    assert result["bytes_in"] == 20 * len(answer)
    assert result["cpu_s"] > 0


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (HEAD % len(BODY) + BODY[:-1] + b"x", "wrong replies, the first: another body"),
        (HEAD % 3 + BODY[:3], "wrong replies, the first: another body"),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy", "wrong replies, the first: HTTP/1.1 503 Busy"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "without Content-Length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: much\r\n\r\n", "malformed length"),
        (b"+OK\r\n", "not an HTTP/1.1 response"),
    ],
)
def test_another_answer_is_an_error(answer: bytes, what: str) -> None:
    with stub(answer) as on, pytest.raises(RuntimeError, match=what):
        run_load(on, traffic(BODY), 2, 0.05, 0.0)


def test_the_distribution_of_latencies_is_told() -> None:
    with stub(HEAD % 3 + b"abc") as on:
        result = run_load(on, traffic(b"abc"), 2, 0.2, 0.05)
    times = result["latencies_us"]
    assert times == sorted(times)
    assert (LATENCY_SHARES[0], LATENCY_SHARES[-1]) == (0, 0.9999)
    assert 20 <= len(set(LATENCY_SHARES)) <= 50
    at = dict(zip(LATENCY_SHARES, times, strict=True))
    assert at[0.99] == result["p99_us"]
    assert at[0.999] == result["p999_us"]
    assert times[0] <= result["p50_us"] <= at[0.9]
    assert times[-1] <= result["max_us"]


def test_services_are_measured_beside_ours() -> None:
    report = rivals.run(Plan(seconds=0.05, repeat=1, quick=True, wanted=()))
    assert report.skipped == []
    assert [(row["case"], row["connections"]) for row in report.rows] == [
        ("rival-fastapi", 50),
        ("rival-litserve", 50),
        ("rival-loop", 50),
    ]
    for row in report.rows:
        assert row["requests_per_s"] > 0
        assert row["share"] == pytest.approx(row["requests_per_s"] / row["plain"]["requests_per_s"])
    assert [goal.limit for goal in report.goals] == [5, 1 / 3] * 2


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "RIVALS", (rivals.Rival("fastapi", "FastAPI", ("no_such_package", "redis")),))
    report = rivals.run(Plan(seconds=0.05, repeat=1, quick=True, wanted=("rival-fastapi",)))
    assert report.rows == []
    assert report.skipped == ["FastAPI: .venv/bin/pip install no_such_package"]


def test_both_cases_of_aibench_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the smallest form: in ONNX, which loads faster than TF, and small images."""
    monkeypatch.setattr(aibench, "BACKEND", "ONNX")
    monkeypatch.setattr(aibench, "VISION", ("ONNX",))
    monkeypatch.setattr(aibench, "SIDE", 32)
    cases = ("aibench-dagexecute", "aibench-flask", "vision-onnx")
    report = aibench.run(Plan(seconds=0.05, repeat=1, quick=True, wanted=cases))
    assert report.skipped == []
    assert [(row["case"], row["connections"]) for row in report.rows] == [*zip(cases, (64, 64, 1), strict=True)]
    check, flask, image = report.rows
    assert check["against"] == "AI.DAGRUN" and check["requests_per_s"] > 0 and check["plain"]["requests_per_s"] > 0
    assert flask["share"] == pytest.approx(flask["requests_per_s"] / flask["plain"]["requests_per_s"])
    assert image["images_per_s"] > 0 and image["library_per_s"] > 0
    assert [(goal.limit, goal.value) for goal in report.goals] == [(9, flask["share"])]


def test_a_service_that_ends_leaves_the_others_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = rivals.Rival("no_such", "Gone", ("redis",))
    monkeypatch.setattr(aibench, "RIVALS", (gone, rivals.Rival("apart", "Apart", ("apart",), apart=True)))
    monkeypatch.setattr(aibench, "BACKEND", "ONNX")
    report = aibench.run(Plan(seconds=0.05, repeat=1, quick=True, wanted=("aibench-no_such", "aibench-apart")))
    assert report.rows == []
    ended, missing = report.skipped
    assert ended == f"Gone: it ended with 1: see {rivals.ENVIRONMENTS / 'no_such.log'}"
    assert missing == "Apart: .venv/bin/python -m bench.rivals apart"


def test_an_environment_apart_sees_the_packages_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "ENVIRONMENTS", tmp_path)
    rival = rivals.Rival("apart", "Apart", ("numpy",), apart=True)
    assert rival.missing()
    rival.install()
    assert not rival.missing()
    prefix = "import numpy, redis, sys; print(sys.prefix)"
    assert subprocess.check_output([rival.python, "-c", prefix], text=True).strip() == str(tmp_path / "apart")
    names = " ".join(rival.name for rival in rivals.MORE if rival.apart)
    page = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
    assert f"\n.venv/bin/python -m bench.rivals {names}\n" in page.read_text()
