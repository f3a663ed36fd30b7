"""The packages that flows ask for, as pip specifiers. What is missing, pip installs into a folder of the flows' own.

That folder comes last on sys.path, so nothing in it hides a package of the module. One install runs at a time; any
thread may enter.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

PIP_SECONDS = 600.0
_ERROR_CHARACTERS = 600
_SPEC_CHARACTERS = 500
# Packages with the same module: one of them will do.
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")


class RequirementError(Exception):
    """A requirement is none, or could not be met. The text says which and why, in one line."""


class Requirements:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._wheels: dict[str, list[str] | None] = {}  # by specifier; None while it is being installed
        if str(folder) not in sys.path:
            sys.path.append(str(folder))

    def install(self, specs: Iterable[str | bytes], *, force: bool = False) -> None:
        """Blocks until all are met. force: pip installs anew what is in the folder."""
        wanted = {text: requirement for text, requirement in map(_parse, specs) if _applies(requirement)}
        with self._lock:
            missing = {text: each for text, each in wanted.items() if not self._is_met(each, force)}
            self._wheels.update(dict.fromkeys(missing))
            try:
                if missing:
                    self._pip([str(requirement) for requirement in missing.values()])
            finally:
                for text in missing:
                    del self._wheels[text]
            for text, requirement in wanted.items():
                found = _find(requirement.name)
                self._wheels[text] = [f"{found.metadata['Name']}-{found.version}"] if found else []

    def dump(self) -> list[dict[str, Any]]:
        """The rows of RG.PYDUMPREQS, in the order in which clients read them by position."""
        return [
            {
                "GearReqVersion": 1,
                "Name": text,
                "IsDownloaded": "no" if wheels is None else "yes",
                "IsInstalled": "no" if wheels is None else "yes",
                "CompiledOs": sysconfig.get_platform(),
                "Wheels": wheels or [],
            }
            for text, wheels in self._wheels.copy().items()
        ]

    def _is_met(self, requirement: Requirement, force: bool) -> bool:
        found = _find(requirement.name)
        if found is None or (force and Path(str(found.locate_file(""))) == self._folder):
            return False
        return requirement.specifier.contains(found.version, prereleases=True) or _can_be_imported(found)

    def _pip(self, specs: list[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--quiet"]
        command += ["--no-warn-conflicts", "--upgrade", "--target", str(self._folder), "--", *specs]
        names = " ".join(specs)
        # A file, since what pip started may hold a pipe open after pip was ended.
        with TemporaryFile() as output:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self._folder,
                    timeout=PIP_SECONDS,
                )
            except subprocess.TimeoutExpired:
                raise RequirementError(f"{names}: pip took more than {PIP_SECONDS:g} s") from None
            output.seek(0)
            said = output.read().decode(errors="replace")
        self._drop_old_metadata()
        importlib.invalidate_caches()
        if done.returncode:
            raise RequirementError(f"{names}: pip: {_reason(said)}")

    def _drop_old_metadata(self) -> None:
        """pip leaves that of a version that it replaced in such a folder."""
        newest: dict[str, Path] = {}
        for info in sorted(self._folder.glob("*.dist-info"), key=lambda path: path.stat().st_mtime_ns):
            name = info.name.partition("-")[0].lower()
            if name in newest:
                shutil.rmtree(newest[name], ignore_errors=True)
            newest[name] = info


def _parse(spec: str | bytes) -> tuple[str, Requirement]:
    """Only names with versions: a path or a URL would be another way to get code, and an option is no requirement."""
    text = spec.decode(errors="replace").strip() if isinstance(spec, bytes) else str(spec).strip()
    try:
        if not text.isprintable() or len(text) > _SPEC_CHARACTERS:
            raise InvalidRequirement("too long, or not on one line")
        requirement = Requirement(text)
        if requirement.url:
            raise InvalidRequirement("it has a URL")
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0]
        raise RequirementError(f"{text[:100]!r} is no requirement such as name or name>=1.0: {reason}") from None
    return text, requirement


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _find(name: str) -> Distribution | None:
    for each in [name, *_OPENCV] if name.lower().replace("_", "-") in _OPENCV else [name]:
        try:
            return distribution(each)
        except PackageNotFoundError:
            continue
    return None


def _can_be_imported(found: Distribution) -> bool:
    modules = list(dict.fromkeys(_modules(found)))
    for module in modules:
        try:
            importlib.import_module(module)
            return True
        except Exception:
            continue
    return not modules  # a package without modules has its use as it is


def _modules(found: Distribution) -> Iterator[str]:
    """The names of its modules, those of its folders without underscores."""
    listed = (found.read_text("top_level.txt") or "").split()
    parts = ((path.parts[0], path.suffix, len(path.parts)) for path in found.files or [])
    files = (part.partition(".")[0] for part, suffix, depth in parts if suffix == ".py" or depth > 1)
    for name in listed or files:
        if name.isidentifier() and not name.startswith("_"):
            yield name


def _reason(said: str) -> str:
    """pip's errors in one line, else the last thing it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return "; ".join(errors or lines[-1:])[:_ERROR_CHARACTERS] or "no message"
