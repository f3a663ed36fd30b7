"""The requirements of flows: which count as met, how pip installs others, and what is refused."""

from __future__ import annotations

import importlib
import io
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from flows import requirements
from flows.requirements import RequirementError, Requirements


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip installs. pip finds only what lies in the folder wheels beside it."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "of flows"


@pytest.fixture
def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(Requirements, "_pip", refuse)


def wheel(folder: Path, name: str, version: str, source: str) -> None:
    """A package of one module."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / "wheels" / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", source)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def installed(folder: Path, name: str, version: str, module: str, source: str) -> None:
    """As if a package were in the environment of the server already."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{module}.py,,\n")
    (folder / f"{module}.py").write_text(source)
    sys.path.append(str(folder))
    importlib.invalidate_caches()


def row(name: str, *wheels: str) -> dict[str, Any]:
    return {
        "GearReqVersion": 1,
        "Name": name,
        "IsDownloaded": "yes",
        "IsInstalled": "yes",
        "CompiledOs": sysconfig.get_platform(),
        "Wheels": list(wheels),
    }


def test_what_is_missing_is_installed(folder: Path, request: pytest.FixtureRequest) -> None:
    wheel(folder.parent, "flowsgreeting", "1.0", "WORD = 'hello'\n")
    mine = Requirements(folder)
    mine.install(["flowsgreeting>=0.5"])
    assert sys.path[-1] == str(folder)
    module: Any = importlib.import_module("flowsgreeting")
    assert module.WORD == "hello" and Path(module.__file__).parent == folder
    assert mine.dump() == [row("flowsgreeting>=0.5", "flowsgreeting-1.0")]
    assert list(mine.dump()[0])[1:4] == ["Name", "IsDownloaded", "IsInstalled"]  # read by position
    wheel(folder.parent, "flowsgreeting", "2.0", "WORD = 'good morning'\n")
    mine.install(["flowsgreeting", "numpy"], force=True)
    assert importlib.reload(module).WORD == "good morning"
    assert mine.dump()[1:] == [row("flowsgreeting", "flowsgreeting-2.0"), mine.dump()[2]]
    assert [path.name for path in folder.glob("*.dist-info")] == ["flowsgreeting-2.0.dist-info"]
    request.getfixturevalue("without_pip")
    mine.install([b"flowsgreeting>=0.5", "flowsgreeting==9"])  # any version that can be imported


def test_an_old_version_that_cannot_be_imported(folder: Path) -> None:
    """As of packages that were built for NumPy 1: the newest serves."""
    wheel(folder.parent, "flowsold", "1.0", "raise ImportError('numpy.core.multiarray failed to import')\n")
    wheel(folder.parent, "flowsold", "2.0", "VERSION = 2\n")
    mine = Requirements(folder)
    mine.install(["flowsold<2"])
    assert mine.dump() == [row("flowsold<2", "flowsold-2.0")]
    assert importlib.import_module("flowsold").VERSION == 2


def test_what_pip_refuses(folder: Path) -> None:
    """Also sources that it would have to build."""
    with tarfile.open(folder.parent / "wheels" / "flowssource-1.0.tar.gz", "w:gz") as file:
        setup = b"raise SystemExit('setup.py was run')"
        entry = tarfile.TarInfo("flowssource-1.0/setup.py")
        entry.size = len(setup)
        file.addfile(entry, io.BytesIO(setup))
    mine = Requirements(folder)
    with pytest.raises(RequirementError) as raised:
        mine.install(["numpy", "flowssource==1.0"])
    text = str(raised.value)
    assert text.startswith("flowssource==1.0: pip: Could not find a version that satisfies the requirement")
    assert "; No matching distribution found for flowssource==1.0 (what has no wheel, install it with" in text
    assert "\n" not in text and mine.dump() == []


def test_pip_takes_too_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "PIP_SECONDS", 0.01)
    with pytest.raises(RequirementError, match=r"flows-nowhere: pip: it took more than 0\.01 s"):
        Requirements(folder).install(["flows-nowhere"])


@pytest.mark.usefixtures("without_pip")
def test_what_the_environment_has(folder: Path) -> None:
    installed(folder.parent / "site", "opencv-python", "4.11", "cv2", "")
    specs = ["numpy", "numpy<1.0", "NumPy[extra]==0.1", "opencv-python-headless<4.5", "absent; python_version < '3'"]
    mine = Requirements(folder)
    mine.install(specs)
    assert [each["Name"] for each in mine.dump()] == specs[:4]
    assert mine.dump()[3] == row("opencv-python-headless<4.5", "opencv-python-4.11")
    assert not folder.exists()


@pytest.mark.usefixtures("without_pip")
def test_what_cannot_be_imported_is_not_met(folder: Path) -> None:
    installed(folder.parent / "site", "flows-broken", "1.0", "flowsbroken", "raise ImportError('built for NumPy 1')\n")
    mine = Requirements(folder)
    mine.install(["flows-broken"])  # the very version
    with pytest.raises(AssertionError, match="pip was called"):
        mine.install(["flows-broken<0.5"])


@pytest.mark.usefixtures("without_pip")
@pytest.mark.parametrize(
    "spec",
    [
        *("", "-r/etc/passwd", "--index-url=http://x", "--", "numpy\n--pre", "numpy --pre", "numpy\0", "a" * 1000),
        *("/tmp/x", "./x", "x/y", "git+https://x/y", "https://x/y.whl", "numpy @ https://x/y.whl", "numpy@file:///x"),
        *("numpy<", "ä", b"\xff", "$(id)", "numpy; extra"),
    ],
)
def test_what_is_no_requirement(folder: Path, spec: str | bytes) -> None:
    mine = Requirements(folder)
    with pytest.raises(RequirementError) as raised:
        mine.install(["numpy", spec])
    assert "is no requirement such as name or name>=1.0" in str(raised.value) and "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300 and mine.dump() == []
