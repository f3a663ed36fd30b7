"""The packages that flows ask for, as pip specifiers. What is missing, pip installs into a folder of the flows' own.

That folder comes last on sys.path, so nothing in it hides a package of the module. One install runs at a time; any
thread may enter.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

PIP_SECONDS = 600.0
IMPORT_SECONDS = 60.0
_ERROR_CHARACTERS = 600
_SPEC_CHARACTERS = 500
# Packages with the same module: one of them will do.
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")

_TRY = """
import sys
sys.path[:] = sys.argv[1].split(":")
for name in sys.argv[2:]:
    try:
        __import__(name)
    except Exception:
        continue
    sys.exit(0)
sys.exit(1)
"""


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
                # Old versions were built for an older NumPy; then the newest serves.
                if broken := [each.name for each in missing.values() if each.specifier and not _works(each.name)]:
                    self._pip(broken)
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
        return requirement.specifier.contains(found.version, prereleases=True) or _works(requirement.name)

    def _pip(self, specs: list[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--quiet"]
        command += ["--no-warn-conflicts", "--upgrade", "--target", str(self._folder), "--", *specs]
        code, said = _run(command, PIP_SECONDS)
        self._drop_old_metadata()
        importlib.invalidate_caches()
        if code:
            hint = f"what has no wheel, install it with {sys.executable} -m pip install"
            raise RequirementError(f"{' '.join(specs)}: pip: {_reason(said)} ({hint})")

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


def _works(name: str) -> bool:
    """Whether a module of the package can be imported. Another process tries: modules may crash, and those that
    failed half-way cannot be tried anew."""
    found = _find(name)
    modules = list(_modules(found)) if found else []
    if not modules:
        return found is not None
    return _run([sys.executable, "-I", "-c", _TRY, ":".join(sys.path), *modules], IMPORT_SECONDS)[0] == 0


def _modules(found: Distribution) -> set[str]:
    """The names of its modules and of its packages; none for parts of a namespace."""
    if listed := found.read_text("top_level.txt"):
        return set(listed.split())
    files = [path.parts for path in found.files or []]
    packages = {parts[0] for parts in files if parts[1:] == ("__init__.py",)}
    return packages | {parts[0].partition(".")[0] for parts in files if parts[0].endswith((".py", ".so"))}


def _run(command: list[str], seconds: float) -> tuple[int, str]:
    """Its exit status and what it said. A file takes that: what the command started may hold a pipe open after it."""
    # Builds of sources take minutes of a machine that serves: pip refuses them at once.
    environment = {"PIP_ONLY_BINARY": ":all:", **os.environ}
    with TemporaryFile() as said:
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said, "timeout": seconds}
        try:
            code = subprocess.run(command, env=environment, **given).returncode
        except subprocess.TimeoutExpired:
            return 1, f"ERROR: it took more than {seconds:g} s"
        said.seek(0)
        return code, said.read().decode(errors="replace")


def _reason(said: str) -> str:
    """pip's errors in one line, else the last thing it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return "; ".join(errors or lines[-1:])[:_ERROR_CHARACTERS] or "no message"
