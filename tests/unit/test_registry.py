"""Backends are found by the paths that configuration uses, and every failure is one clear sentence."""

import sys
from pathlib import Path

import pytest

from redisai.backends import BackendError, Registry
from redisai.protocol import Definition, one_line
from tests.unit.loading import settings

TF, TFLITE, TORCH, ONNX = range(4)
GOOD = """
def version():
    return "1.2"
def load(definition, settings):
    return None
"""


def folder(path: Path, name: str, source: str) -> Path:
    (path / name).mkdir(parents=True)
    (path / name / f"{name}.py").write_text(source)
    return path / name


def registry_at(path: Path) -> tuple[Registry, list[tuple[int, str]]]:
    loaded: list[tuple[int, str]] = []
    return Registry(lambda: path, lambda number, version, advice: loaded.append((number, version))), loaded


@pytest.mark.parametrize("written", ["redisai_x.so", "redisai_x.py", "redisai_x"])
def test_any_suffix_names_the_python_file(tmp_path: Path, written: str) -> None:
    found, loaded = registry_at(tmp_path)
    found.load(TORCH, folder(tmp_path, "redisai_x", GOOD) / written)
    assert loaded == [(TORCH, "1.2")]


def test_a_folder_names_its_backend(tmp_path: Path) -> None:
    found, loaded = registry_at(tmp_path)
    found.load(TORCH, folder(tmp_path, "redisai_torch", GOOD))
    assert loaded == [(TORCH, "1.2")]


def test_lazily_from_the_default_place(tmp_path: Path) -> None:
    folder(tmp_path, "redisai_tflite", GOOD)
    found, loaded = registry_at(tmp_path)
    assert found.get(TFLITE) is found.get(TFLITE)
    assert loaded == [(TFLITE, "1.2")]


def test_a_backend_may_import_files_beside_it(tmp_path: Path) -> None:
    path = folder(tmp_path, "redisai_x", "from .beside import load, version")
    (path / "beside.py").write_text(GOOD)
    found, loaded = registry_at(tmp_path)
    found.load(ONNX, path / "redisai_x.so")
    assert loaded == [(ONNX, "1.2")]


def test_the_same_path_again_is_fine_and_another_is_not(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", "redisai_torch", GOOD)
    other = folder(tmp_path / "b", "redisai_torch", GOOD)
    found, loaded = registry_at(tmp_path)
    found.load(TORCH, path / "redisai_torch.so")
    found.load(TORCH, path)
    found.load(TORCH, path / ".." / "redisai_torch" / "redisai_torch.py")
    assert found.generation == len(loaded) == 1
    with pytest.raises(BackendError, match="already loaded, from .*/a/redisai_torch"):
        found.load(TORCH, other)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    found, loaded = registry_at(tmp_path)
    with pytest.raises(BackendError) as error:
        found.get(TF)
    source = tmp_path / "redisai_tensorflow" / "redisai_tensorflow.py"
    assert str(error.value) == f"Could not load backend: TF: there is no {source}"
    assert found.generation == 0 and not loaded


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "import nowhere_to_be_found",
            f"No module named 'nowhere_to_be_found'; install it into {sys.prefix} (pip install torch)",
        ),
        ("raise SystemExit('bye')", "bye"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise RuntimeError('one\\n   two')", "one    two"),
        ("def load(", "'(' was never closed"),
        ("version = 3", "has no function version()"),
        ("def version(): return '1'", "has no function load()"),
        ("def version(): raise ValueError('odd')\ndef load(): pass", "odd"),
    ],
)
def test_whatever_an_import_does_is_an_error(tmp_path: Path, source: str, reason: str) -> None:
    path = folder(tmp_path, "redisai_torch", source)
    found, _ = registry_at(tmp_path)
    with pytest.raises(BackendError) as error:
        found.get(TORCH)
    assert str(error.value).startswith("Could not load backend: TORCH: ")
    assert reason in str(error.value)
    (path / "redisai_torch.py").write_text(GOOD + "\n# longer than what Python may have cached\n" * 9)
    found.get(TORCH)


def test_device() -> None:
    gpus = {"CPU": None, "CPU:1": None, "GPU": 0, "GPU:0": 0, "GPU:12": 12}
    assert {device: Definition("ONNX", device, b"", (), ()).gpu for device in gpus} == gpus


def test_threads_leave_a_core_to_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    assert settings().intra_op_threads == 7
    assert settings(threads_per_queue=3).intra_op_threads == 2
    assert settings(threads_per_queue=100).intra_op_threads == 1
    assert settings(intra_op_parallelism=5).intra_op_threads == 5


def test_errors_are_one_line() -> None:
    assert one_line(ValueError("first\n   second\r\n\n\tthird ")) == "first    second   \tthird "
    assert one_line(MemoryError()) == "MemoryError"


def test_the_memory_that_a_library_may_take() -> None:
    """What is set, else half of what there is; a container may have less than the machine."""
    assert settings(backend_memory_limit=5).memory_limit == 5
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < settings().memory_limit * 1_000_000 <= total // 2
