"""Python environments that lack a package, for servers."""

from __future__ import annotations

import sys
from pathlib import Path


def python_without(folder: Path, *packages: str) -> Path:
    """The interpreter of an environment like ours, but for these packages. The rest is linked, so only a server without
    a sandbox can read it."""
    venv = folder / "venv"
    ours = next(Path(sys.prefix).glob("lib/python3.*/site-packages"))
    site = venv / ours.relative_to(sys.prefix)
    site.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
    python = venv / "bin" / "python"
    python.symlink_to(Path(sys.executable).resolve())
    for path in ours.iterdir():
        if not path.name.startswith(packages):
            (site / path.name).symlink_to(path)
    return python
