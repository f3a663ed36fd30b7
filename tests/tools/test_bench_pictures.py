"""Pictures of figures that are made up: what a reader sees is there, and what was not measured is not."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import growth, pictures
from bench.report import Plan

SVG = "{http://www.w3.org/2000/svg}"
LATENCIES = [[10.0 * (i + 1), i / 20] for i in range(20)] + [[300.0, 0.9999], [400.0, 1.0]]
TIMES = {"requests_per_s": 12_345.6, "p50_us": 80.5, "p99_us": 200.25, "p999_us": 300.0, "max_us": 400.0}
LIMIT = 100_000  # bytes


def of_case(case: str, **more: Any) -> dict[str, Any]:
    return {"case": case, **TIMES, "latencies": LATENCIES, **more}


def throughput() -> list[dict[str, Any]]:
    names = [
        "set",
        "linear-onnx",
        *(f"{name}-{library}" for name in ("mlp", "fraud", "fraud-dag") for library in ("onnx", "tf")),
    ]
    cases = [*names, *(f"{name}-batch" for name in names)]
    rows = [of_case(name, connections=n, plain=TIMES, share=0.5) for name, n in product(cases, (1, 50, 200))]
    return rows + [of_case(f"tensor{what}-1MB", connections=1, plain=TIMES, share=0.9) for what in ("set", "get")]


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
    "growth": [
        *grown("growth-models", "AI.MODELEXECUTE", "GET", store_us=700.0),
        *grown("growth-tensors", "AI.TENSORSET", "SET", store_us=2.0),
        *grown("growth-waiting", "AI.MODELEXECUTE", "SET"),
    ],
}
OF_PART = {
    "throughput": {"throughput", "latency", "distributions"},
    "beside": {"beside", "distributions"},
    "images": {"images"},
    "rivals": {"rivals"},
    "growth": {"growth"},
}
SEEN = {
    "throughput": {"Credit card, as a DAG", "ONNX", "TF", "BATCHSIZE 32", "connections", "10k", "1MB"},
    "latency": {"MLP 30-64-64-2", "median", "p99", "100 µs"},
    "distributions": {"Credit card, one by one", "99.99", "equal CPU load", "ONNX, DAG"},
    "beside": {"cnn-onnx", "idle server"},
    "images": {"TFLITE", "97 %", "32"},
    "rivals": {"FastAPI + Redis", "12.3k", "1.23k", "7.65 ms", "80.5 µs"},
    "growth": {"Memory of a stored tensor", "Time, by waiting requests", "client that sets", "10k"},
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
        assert 0 < row["us_least"] <= row["us"] <= row["us_most"]
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
