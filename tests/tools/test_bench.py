"""scripts/bench: every part measures what it says, and writes it as JSON, as a table and on the screen."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bench import loops, rivals
from bench.main import PARTS, arguments, flat, main
from bench.report import LATENCY_SHARES, Goal, Plan, Report
from bench.throughput import BATCHSIZE
from testkit.load import build_load
from testkit.server import module_path, server_program

ROOT = Path(__file__).resolve().parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """What scripts/bench runs once everything is installed and built."""
    command = [sys.executable, "-m", "bench.main", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


def point(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is of. A case may be compared with several others."""
    return row["case"], row.get("connections"), row.get("against")


def figures_of(folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    """The JSON and the table of the shortest possible run. Rows have the shape of those in bench/results.json."""
    done = bench("--quick", "--seconds", "0.05", "--json", str(folder / "figures.json"), *words)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    table = (folder / "figures.md").read_text()
    committed = json.loads((ROOT / "bench" / "results.json").read_text())["parts"]
    for name, part in figures["parts"].items():
        assert not part["skipped"]
        known = committed.get(name, {"rows": []})["rows"]
        shapes = {point(row): shape(row) for row in known}
        for row in part["rows"]:
            assert shape(row) == shapes.get(point(row), shape(row))
            assert row["case"] in done.stdout
            assert row["case"] in table
        for goal in part["goals"]:
            word = "reached" if goal["reached"] else "MISSED"
            assert f"{word}: {goal['text']}" in done.stdout
            assert goal["reached"] == (
                goal["value"] <= goal["limit"] if goal["at_most"] else goal["value"] >= goal["limit"]
            )
            assert goal["text"] in table
    return figures, table


def shape(row: dict[str, Any]) -> list[str]:
    """Names of a row's numbers, and how many numbers its lists have."""
    names = [name for name, _ in flat(row)]
    return names + [f"{name} {len(value)}" for name, value in row.items() if isinstance(value, list)]


def check_latencies(figures: dict[str, Any]) -> None:
    assert 0 < figures["p50_us"] <= figures["p99_us"] <= figures["p999_us"] <= figures["max_us"]
    assert figures["requests_per_s"] > 0
    if times := figures.get("latencies_us"):
        assert len(times) == len(LATENCY_SHARES)
        assert times == sorted(times)
        assert times[LATENCY_SHARES.index(0.99)] == pytest.approx(figures["p99_us"])


def test_bench_measures_commands_beside_set_and_get(tmp_path: Path) -> None:
    figures, table = figures_of(tmp_path, "--parts", "throughput")
    part = figures["parts"]["throughput"]
    assert {goal["limit"] for goal in part["goals"]} == {0.65, 0.22, 0.20, 0.45, 3, 0.97, 1.1}
    measured = {(row["case"], row["connections"]) for row in part["rows"]}
    assert {("cnn-onnx", 50), ("linear-onnx", 1), ("tensorset-1MB", 1), ("fraud-dag-onnx", 1)} <= measured
    for row in part["rows"]:
        check_latencies(row)
        assert 0 < row["share_min"] <= row["share"] <= row["share_max"]
    assert "| case | against | connections | requests/s | p50, us |" in table
    assert figures["machine"]["ai_onnxruntime_version"] in table


def test_bench_measures_get_beside_inference_and_equal_work(tmp_path: Path) -> None:
    figures, _ = figures_of(tmp_path, "--parts", "beside")
    rows = {row["case"]: row for row in figures["parts"]["beside"]["rows"]}
    assert list(rows) == ["beside-nothing", "beside-set", "beside-cnn-onnx", "beside-set-50MB", "beside-storing-50MB"]
    inference = rows["beside-cnn-onnx"]
    for each in rows["beside-nothing"], rows["beside-set"], inference, inference["busy"]:
        check_latencies(each)
    for each in inference, inference["busy"]:
        assert 0 < each["worker_cores"] < 2
        assert 0 < each["loop_cores"] < 1.1
    assert inference["ratio"] == pytest.approx(inference["p99_us"] / inference["busy"]["p99_us"])
    assert rows["beside-storing-50MB"]["worst_ms"] > 0


def test_hashes_are_scored_in_both_ways(tmp_path: Path) -> None:
    figures, table = figures_of(tmp_path, "--parts", "features")
    part = figures["parts"]["features"]
    (row,) = part["rows"]
    assert (row["case"], row["against"], row["connections"]) == ("features-linear", "pipeline", 1)
    assert row["requests_per_s"] > row["plain"]["requests_per_s"] > 0
    assert "times the rate of redis-py and ONNX Runtime" in table


def test_a_binding_is_measured_beside_the_library(tmp_path: Path) -> None:
    figures, table = figures_of(tmp_path, "--parts", "bindings")
    cost, row = figures["parts"]["bindings"]["rows"]
    assert min(cost["plain_us"], cost["others_us"], cost["bound_us"]) > 0
    assert row["requests_per_s"] > 0 and row["library"]["requests_per_s"] > 0
    assert row["get"]["p99_us"] > 0 and "documents embedded by a binding" in table


def test_flows_are_measured(tmp_path: Path) -> None:
    figures, table = figures_of(tmp_path, "--parts", "flows")
    *streams, trigger, cost = figures["parts"]["flows"]["rows"]
    assert [row["batch"] for row in streams] == [1, 100] and min(row["requests_per_s"] for row in streams) > 0
    assert 0 < trigger["p50_us"] <= trigger["p99_us"]
    assert min(cost["off_us"], cost["idle_us"], cost["watched_us"]) > 0
    assert "entries/s through a flow that runs a tiny model" in table


def test_batches_of_every_model_are_measured(tmp_path: Path) -> None:
    figures, _ = figures_of(tmp_path, "--parts", "throughput", "--cases", "mlp,fraud,linear-onnx-batch,cnn-onnx-batch")
    names = {row["case"] for row in figures["parts"]["throughput"]["rows"]}
    assert {"linear-onnx-batch", "cnn-onnx-batch"} <= names
    for model in ("mlp-", "fraud-", "fraud-dag-"):
        assert {f"{model}{backend}{how}" for backend in ("onnx", "torch", "tf") for how in ("", "-batch")} <= names


def test_every_case_is_measured_beside_the_library(tmp_path: Path) -> None:
    own = {case.name: case for case in loops.own()}
    figures, table = figures_of(tmp_path, "--parts", "loops", "--cases", ",".join([*own, "mlp-torch", "linear-onnx"]))
    rows = figures["parts"]["loops"]["rows"]
    measured = {(row["case"], row["against"], row["connections"]) for row in rows}
    for name, case in own.items():
        sides = [case.against, *(["library"] if case.loop else []), *(["one worker"] if case.workers > 1 else [])]
        assert measured >= {(name, side, connections) for side in sides for connections in (1, 50)}
    names = {*own, "mlp-torch", "mlp-torch-batch", "linear-onnx", "linear-onnx-batch"}
    assert {name for name, _, _ in measured} == names
    assert {name for name, side, _ in measured if side == "library"} == {name for name in names if "values" not in name}
    for row in rows:
        check_latencies(row)
        assert 0 < row["share_min"] <= row["share"] <= row["share_max"]
        turn_us = row["connections"] / row["requests_per_s"] * 1e6
        assert row["p99_turns"] == pytest.approx(row["p99_us"] / turn_us, rel=0.01)
    assert "| case | against | connections | requests/s | p50, us |" in table


def test_the_loop_runs_batches_where_the_module_may(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Loop:
        def result(self, batch: int, seconds: float) -> dict[str, float]:
            asked.append(batch)
            return {"requests_per_s": 1.0}

    monkeypatch.setattr(loops, "library", lambda model: nullcontext(Loop()))
    build_load()
    loops.run(Plan(seconds=0.05, repeat=1, quick=True, wanted=("linear-onnx",)))
    assert set(asked) == {1, BATCHSIZE}
    assert asked.count(1) == 3 * asked.count(BATCHSIZE)  # in batches, and with 50 connections


def compare(folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    done = bench("--quick", "--json", str(folder / "figures.json"), "--other", str(module_path()), *words)
    assert done.returncode == 0, done.stderr
    part: dict[str, Any] = json.loads((folder / "figures.json").read_text())["parts"]["loops"]
    return part, done.stdout


def test_a_module_beside_itself_is_as_fast(tmp_path: Path) -> None:
    cases = "set,script-dag,cnn-torch-two,mlp-torch-busy,tensorget-values-30"
    part, _ = compare(tmp_path, "--repeat", "3", "--cases", cases)
    rows = {(row["case"], row["connections"]): row for row in part["rows"]}
    assert {name for name, _ in rows} == set(cases.split(","))
    for row in rows.values():
        assert row["against"] == "other"
        assert 0.1 < row["share"] < 10
        assert row["share_min"] <= row["share"] <= row["share_max"]
        assert row["p99_share"] > 0
    assert part["skipped"] == []
    assert f"- the other: {module_path()}" in (tmp_path / "figures.md").read_text()


def test_what_the_other_module_refuses_is_named(tmp_path: Path) -> None:
    """Its user may not store scripts: as if that command were missing."""
    program, user = tmp_path / "server", "default on nopass '~*' '&*' +@all -ai.scriptstore"
    program.write_text(f'#!/bin/sh\nexec {server_program()} "$@" --user {user}\n')
    program.chmod(0o755)
    part, out = compare(tmp_path, "--other-server", str(program), "--cases", "script,sum-torch")
    assert {row["case"] for row in part["rows"]} == {"sum-torch"}
    for case, refusal in zip(("script", "script-dag"), part["skipped"], strict=True):
        assert refusal.startswith(f"{case}: the other refused: NOPERM") and "ai.scriptstore" in refusal.lower()
        assert f"skipped: {refusal}" in out


def test_a_server_that_a_case_has_ended_is_started_again() -> None:
    plan = Plan(seconds=0.05, repeat=1, quick=True, wanted=(), other=str(module_path()))
    with loops.Servers(plan) as servers:
        server = servers.get(1, other=True)
        server.kill()
        assert servers.get(1, other=True) is server
        server.check_alive()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--other", "/no/such.so"), "/no/such.so is not there"),
        (("--other", str(module_path()), "--parts", "beside"), "leave out --parts"),
    ],
)
def test_what_other_needs(words: tuple[str, ...], reason: str) -> None:
    done = bench(*words)
    assert done.returncode == 2
    assert reason in done.stderr


PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))


def test_the_pages_name_commands_that_measure_something() -> None:
    """Other tests run every part and every case."""
    named = "\n".join((ROOT / page).read_text() for page in PAGES)
    commands = re.findall(r"(?<!\w)\./scripts/bench((?: --[a-z-]+(?: [\w./,-]+)?)*)", " ".join(named.split()))
    assert len(commands) > 15
    known = {case.name for case in loops.cases()} | {"beside-storing"}
    for words in commands:
        options = arguments().parse_args(words.split())
        assert set(options.parts) <= set(PARTS)
        assert all(any(name.startswith(case) for name in known) for case in options.cases), words
    for table in re.findall(r"^\| .*?\| case \|\n(.*?)\n\n|^\| case \| what it runs \|\n(.*?)\n\n", named, re.M | re.S):
        cases = re.findall(r"`([a-z][a-z0-9-]+)`", "".join(table))
        assert set(cases) - known <= {f"rival-{rival.name}" for rival in rivals.RIVALS}
        assert len(cases) >= 8


def test_bench_names_its_cases_when_asked_for_another(tmp_path: Path) -> None:
    done = bench("--cases", "no-such-case", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 1
    assert "cnn-onnx" in done.stderr


def test_a_part_that_fails_leaves_the_others_their_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(plan: Plan) -> Report:
        raise RuntimeError("no luck")

    def working(plan: Plan) -> Report:
        row = {"case": "one", "p50_us": 123.4, "plain": {"requests_per_s": 5.0}, "latencies_us": [1.0]}
        return Report([row], [Goal("something", 1.25, 1.1, at_most=True)], ["the rest: not here"])

    path = tmp_path / "figures.json"
    monkeypatch.setattr("bench.beside.run", broken)
    monkeypatch.setattr("bench.throughput.run", working)
    monkeypatch.setattr("bench.main.draw", lambda figures, folder: None)
    monkeypatch.setattr(sys, "argv", ["bench", "--parts", "beside,throughput", "--json", str(path)])
    assert main() == 1
    parts = json.loads(path.read_text())["parts"]
    assert parts["beside"]["skipped"] == ["beside failed: no luck"]
    assert parts["throughput"]["goals"][0]["reached"] is False
    out = capsys.readouterr().out
    assert "skipped: the rest: not here" in out
    assert "MISSED: something: at most 1.1; here 1.250" in out
    table = path.with_suffix(".md").read_text()
    assert "| case | p50, us | plain requests/s |\n|---|---:|---:|\n| one | 123 | 5 |\n" in table
    assert "| something | at most 1.1 | 1.25 | **no** |" in table
