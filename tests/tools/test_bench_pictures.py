"""The pictures of scripts/bench show all that a reader needs, legibly, and bench/results.json stores what they need."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import aibench, beside, bindings, features, flows, growth, images, isolation, loops, pictures, rivals
from bench import throughput as commands
from bench.main import pretty, text, write
from bench.mobilenet import BACKENDS
from bench.report import LATENCY_SHARES, Plan

SVG = "{http://www.w3.org/2000/svg}"
LATENCIES = [10.0 * (i + 1) for i in range(len(LATENCY_SHARES))]
TIMES = {"requests_per_s": 12_345.6, "p50_us": 80.5, "p99_us": 200.25, "p999_us": 300.0, "max_us": 400.0}
LIMIT = 100_000  # bytes


def of_case(case: str, **more: Any) -> dict[str, Any]:
    return {"case": case, **TIMES, "latencies_us": LATENCIES, **more}


def throughput() -> list[dict[str, Any]]:
    names = [
        "set",
        "linear-onnx",
        *(f"{name}-{library}" for name in ("mlp", "fraud", "fraud-dag") for library in ("onnx", "tf")),
    ]
    cases = [*names, *(f"{name}-batch" for name in names)]
    rows = [of_case(name, connections=n, plain=TIMES, share=0.5) for name, n in product(cases, (1, 50, 200))]
    tensors = product(("tensorset-4KB", "tensorget-4KB", "tensorset-1MB", "tensorget-1MB"), (1, 10))
    return rows + [of_case(name, connections=n, plain=TIMES, share=0.9) for name, n in tensors]


def grown(case: str, command: str, plain: str, **more: Any) -> list[dict[str, Any]]:
    memory = {"us": 12.5, "memory_bytes": 250.0, "resident_bytes": 300.0}
    other = {"command": plain, **memory}
    return [{"case": case, "command": command, "items": n, **memory, **more, "plain": other} for n in (1, 100, 10_000)]


PARTS: dict[str, list[dict[str, Any]]] = {
    "throughput": throughput(),
    "beside": [
        of_case("beside-nothing"),
        of_case("beside-set"),
        of_case("beside-cnn-onnx", connections=50, busy=of_case(""), ratio=1.1),
        {"case": "beside-storing-500MB", "worst_ms": 3.0, "median_worst_ms": 2.0, "took_ms": 900.0},
    ],
    "images": [
        of_case(
            f"mobilenet-{library}", batch=batch, threads=1, connections=batch * n, library_per_s=12_000.0, share=0.97
        )
        for library, batch, n in product(("onnx", "torch", "tf", "tflite"), (1, 8, 32), (1, 2))
    ],
    "rivals": [
        of_case("rival-fastapi", connections=50, plain={**TIMES, "p50_us": 7_654.0}, share=9.0, p50_share=0.1),
        of_case("rival-loop", connections=50, plain={"requests_per_s": 1_234.5}, share=0.3),
    ],
    "aibench": [
        of_case("aibench-dagexecute", against="AI.DAGRUN", connections=64, plain=TIMES, share=1.0),
        of_case("aibench-flask", against="Flask", connections=64, plain={**TIMES, "p99_us": 8_765.0}, share=9.0),
        of_case("aibench-flask-no-reference", against="Flask", connections=64, plain=TIMES, share=9.0),
        *(
            of_case(
                f"vision-{library}",
                batch=batch,
                threads=1,
                connections=n,
                library_per_s=100.0,
                share=0.96,
                images_per_s=96.0,
            )
            for library, (batch, n) in product(("tf", "tflite"), ((1, 1), (32, 1), (8, 8), (8, 16)))
        ),
    ],
    "growth": [
        *grown("growth-models", "AI.MODELEXECUTE", "GET", store_us=700.0),
        *grown("growth-tensors", "AI.TENSORSET", "SET", store_us=2.0),
        *grown("growth-waiting", "AI.MODELEXECUTE", "SET"),
    ],
}
OF_PART = {
    "throughput": {"throughput", "latency", "tensors", "distributions"},
    "beside": {"beside", "distributions"},
    "images": {"images"},
    "rivals": {"rivals"},
    "aibench": {"aibench", "vision"},
    "growth": {"growth"},
}
SEEN = {
    "throughput": {
        "Credit-card network",
        "ONNX",
        "TF",
        "SET",
        "requests per second, BATCHSIZE 32",
        "connections",
        "10k",
    },
    "latency": {"MLP 30-64-64-2", "median latency", "99th percentile", "100 µs"},
    "tensors": {"AI.TENSORSET", "1 connection", "GET = 1", "4KB", "1MB"},
    "distributions": {
        "Credit card, one by one",
        "Credit card as a DAG",
        "99.99",
        "GET beside equal work",
        "idle",
        "CNN",
    },
    "beside": {"CNN, ONNX", "idle server"},
    "images": {"TFLITE", "97 %", "32"},
    "rivals": {"FastAPI + Redis", "12.3k", "1.23k", "7.65 ms", "80.5 µs"},
    "aibench": {"this module, AI.DAGRUN", "Flask", "8.77 ms", "Requests per second, 64 connections"},
    "vision": {"TF, one client", "TFLITE, BATCHSIZE", "96 %", "32"},
    "growth": {"Memory of a stored tensor", "Time, by waiting requests", "string of 16 B", "waiting requests", "10k"},
}


def figures(*parts: str) -> dict[str, Any]:
    return {"parts": {part: {"rows": PARTS[part], "goals": [], "skipped": []} for part in parts}}


def texts(path: Path) -> set[str]:
    return {"".join(element.itertext()).strip() for element in ElementTree.parse(path).iter(f"{SVG}text")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return pictures.draw(figures(*PARTS), tmp_path_factory.mktemp("pictures"))


def test_every_picture_is_drawn_and_says_what_it_shows(files: list[Path]) -> None:
    assert {file.stem for file in files} == set(SEEN)
    for file in files:
        assert texts(file) >= SEEN[file.stem]
        assert file.stat().st_size < LIMIT


def test_growth_is_measured_as_it_is_drawn(tmp_path: Path) -> None:
    report = growth.run(Plan(seconds=0.1, repeat=1, quick=True, wanted=()))
    assert not report.skipped
    assert {row["case"] for row in report.rows} == {case for case, _, _ in growth.cases()}
    for row in report.rows:
        assert 0 < row["us_min"] <= row["us"] <= row["us_max"]
        assert row["plain"]["us"] > 0
    tensors = [row for row in report.rows if row["case"] == "growth-tensors" and row["items"] == 100]
    assert [row["command"] for row in tensors] == ["AI.TENSORSET", "AI.TENSORGET", "AI.MODELEXECUTE"]
    assert 100 < tensors[0]["memory_bytes"] < 5_000
    (file,) = pictures.draw({"parts": {"growth": {"rows": report.rows}}}, tmp_path)
    assert texts(file) >= SEEN["growth"] - {"10k"}


@pytest.mark.parametrize("part", PARTS)
def test_what_was_not_measured_is_not_drawn(part: str, tmp_path: Path) -> None:
    assert {file.stem for file in pictures.draw(figures(part), tmp_path)} == OF_PART[part]
    assert {file.stem for file in tmp_path.iterdir()} == OF_PART[part]


def test_a_quick_look_is_drawn(tmp_path: Path) -> None:
    """One case, one number of connections, a few points: no curve."""
    rows = [row for row in PARTS["throughput"] if row["case"] in ("set", "fraud-tf") and row["connections"] == 50]
    drawn = pictures.draw({"parts": {"throughput": {"rows": rows}, "growth": {"rows": PARTS["growth"][:1]}}}, tmp_path)
    assert {file.stem for file in drawn} == {"distributions"}
    assert pictures.draw({"parts": {}}, tmp_path) == []


def test_the_same_figures_make_the_same_file(tmp_path: Path) -> None:
    (first,) = pictures.draw(figures("growth"), tmp_path)
    before = first.read_bytes()
    pictures.draw(figures("growth"), tmp_path)
    assert first.read_bytes() == before


def luminance(color: str) -> float:
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_all_is_legible_on_both_grounds(files: list[Path]) -> None:
    light, dark = pictures.GROUND, pictures.DARK[pictures.GROUND]
    for file in files:
        text = file.read_text()
        for color in set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", text)) - {pictures.GROUND, pictures.GRID}:
            other = pictures.DARK.get(color, color)
            assert color == other or f"fill:{other}!important" in text
            assert contrast(color, light) >= 3, color
            assert contrast(other, dark) >= 3, color
        for style in re.findall(r"<text style=\"([^\"]*)\"", text):
            assert re.search(f"fill: ({pictures.INK}|{pictures.MUTED})", style), style


# ---- what is stored --------------------------------------------------------------------------------------------------

BENCH = Path(pictures.__file__).parent
MAX_LINES = 2_200


def stored() -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((BENCH / "results.json").read_text())
    return figures


def points() -> dict[str, list[tuple[Any, ...]]]:
    """What identifies each row of a run of everything."""
    images_of = [*product(images.BATCHES, (1,)), *product(images.QUICK, (images.THREADS,))]
    loads = ["nothing", "set", *(name for name, _ in beside.loads())]
    loads += [f"{what}-{beside.MEGABYTES}MB" for what in ("set", "storing")]
    owned = {case.name for case in loops.own()}
    compared = [case for case in [*commands.cases(), *loops.own()] if case.loop or case.name in owned]
    isolated = [case.name for case in isolation.CASES]
    grown = [(case, items) for case, sizes, _ in growth.cases() for items in sizes]
    return {
        "throughput": [(case.name, n) for case in commands.cases() for n in case.connections],
        "beside": [(f"beside-{name}",) for name in loads],
        "images": [
            (f"mobilenet-{library.lower()}", batch, threads, n * batch)
            for library, (batch, threads), n in product(BACKENDS, images_of, (1, 2))
        ],
        "rivals": [
            *((f"rival-{rival.name}", n) for rival, n in product(rivals.RIVALS, rivals.CONNECTIONS)),
            (rivals.LOOP, rivals.JUDGED),
        ],
        "loops": [
            (case.name, n)
            for case in compared
            for n in case.connections
            if n in loops.CONNECTIONS
            for _ in range(1 + (case.workers > 1) + bool(case.loop))  # what it is compared with
        ],
        "isolation": [(name,) for name in [*isolated, *(f"get-beside-{name}" for name in isolation.BESIDE), "idle"]],
        "aibench": [
            *((aibench.OURS + suffix, n) for suffix in ("", aibench.WITHOUT) for n in aibench.CONNECTIONS),
            *((f"aibench-{rival.name}", n) for rival, n in product(aibench.RIVALS, aibench.BESIDE)),
            *((f"aibench-{rival.name}{aibench.WITHOUT}", aibench.BESIDE[-1]) for rival in aibench.RIVALS),
            *((f"vision-{library.lower()}", 1) for library in aibench.VISION for _ in aibench.SIZES),
            *(
                (f"vision-{library.lower()}", n * batch)
                for library, batch, n in product(aibench.VISION, aibench.BATCHES, (1, 2))
            ),
        ],
        "features": [(features.CASE, clients) for clients in features.TIMES],
        "bindings": [(bindings.CASE,), (bindings.COST,)],
        "flows": [*((flows.STREAM,) for _ in flows.BATCHES), (flows.TRIGGER,), (flows.COST,)],
        "growth": [each for each in grown for _ in range(3 if each[0] == "growth-tensors" else 1)],
    }


NAMES = {
    "beside": ("case",),
    "bindings": ("case",),
    "flows": ("case",),
    "isolation": ("case",),
    "images": ("case", "batch", "threads", "connections"),
    "growth": ("case", "items"),
}


def test_the_stored_figures_are_of_all_cases_and_few_lines() -> None:
    for part, wanted in points().items():
        names = NAMES.get(part, ("case", "connections"))
        rows = stored()["parts"][part]["rows"]
        assert sorted(tuple(row[name] for name in names) for row in rows) == sorted(wanted)
    assert len((BENCH / "results.json").read_text().splitlines()) < MAX_LINES


def widest(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: widest(each) for name, each in value.items()}
    if isinstance(value, list):
        return [widest(each) for each in value]
    return 12345.6789 if isinstance(value, float) else value


def test_a_run_of_everything_writes_few_lines(tmp_path: Path) -> None:
    """Whatever the numbers are. Other tests compare the rows of a run with the stored ones."""
    write(widest(stored()), tmp_path / "results.json")
    lines = (tmp_path / "results.json").read_text().splitlines()
    assert len(lines) < MAX_LINES
    assert max(map(len, lines)) < 125  # a long text does not break
    assert json.loads("".join(lines)) == widest(stored())


def test_json_breaks_between_values() -> None:
    assert pretty({"one": 1, "two": [1.5, "x"]}) == '{"one": 1, "two": [1.5, "x"]}'
    long = {"rows": [{"case": "x" * 100, "number": 1.5, "more": {"text": "y" * 100}}], "none": []}
    assert pretty(long).splitlines() == [
        "{",
        ' "rows": [',
        f'  {{"case": "{"x" * 100}",',
        '   "number": 1.5,',
        f'   "more": {{"text": "{"y" * 100}"}}}}',
        " ],",
        ' "none": []',
        "}",
    ]


def test_table_and_pictures_are_of_the_stored_figures(tmp_path: Path) -> None:
    """Text is compared, for curves differ by versions of matplotlib."""
    assert (BENCH / "results.md").read_text() == text(stored())
    drawn = pictures.draw(stored(), tmp_path)
    assert {file.stem for file in drawn} == set(SEEN)
    for file in drawn:
        assert texts(file) == texts(BENCH / file.name)


def test_panels_and_lines_are_few_and_lines_differ() -> None:
    parts = {name: part["rows"] for name, part in stored()["parts"].items()}
    for name, picture in pictures.PICTURES.items():
        figure = picture(parts)
        assert figure and len(figure.axes) <= 6, name
        for axes in figure.axes:
            lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
            assert len(lines) <= 5, name
            assert len({line.get_label() for line in lines}) == len(lines)
            drawn = [line for line in lines if line.get_marker() != "None"]  # others are straight, and differ in style
            assert len({line.get_color() for line in drawn}) == len({line.get_marker() for line in drawn}) == len(drawn)


def test_labels_are_spread() -> None:
    assert pictures.spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert pictures.spread([0.5, 0.5, 0.9], 0.1) == pytest.approx([0.45, 0.55, 0.9])
    assert pictures.spread([0.5, 0.5, 0.62], 0.1) == pytest.approx([0.44, 0.54, 0.64])
