"""The credit-card check as a service of TorchServe, with a worker for each core. bench/rivals.py starts it.

It needs Java.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.rivals_check import Check, words
from testkit.server import free_port

QUIET = """<Configuration><Loggers><Root level="error"/></Loggers></Configuration>"""
check: Check | None = None


def handle(data: list[dict[str, Any]], context: object) -> list[bytes]:
    """TorchServe calls it in the worker's process, first without data."""
    global check
    if check is None:
        redis_port, backend = os.environ["CHECK"].split()
        check = Check(int(redis_port), backend)
    return [check(bytes(each["body"])).tobytes() for each in data or []]


def main() -> None:
    port, (redis_port, backend) = words()
    with TemporaryDirectory() as folder:
        archive = ["--model-name", "fraud", "--version", "1", "--handler", __file__, "--export-path", folder]
        bin = Path(sys.executable).parent
        subprocess.run([bin / "torch-model-archiver", *archive], check=True)
        addresses = {"inference": port, "management": free_port(), "metrics": free_port()}
        lines = [f"{name}_address=http://127.0.0.1:{number}" for name, number in addresses.items()]
        lines += [f"grpc_{name}_port={free_port()}" for name in ("inference", "management")]
        lines += [
            f"default_workers_per_model={os.cpu_count()}",
            "disable_token_authorization=true",
            "disable_system_metrics=true",
        ]
        Path(folder, "config").write_text("\n".join(lines))
        Path(folder, "log4j2.xml").write_text(QUIET)
        start = ["--start", "--foreground", "--ts-config", "config", "--log-config", "log4j2.xml"]
        start += ["--model-store", folder, "--models", "fraud=fraud.mar", "--no-config-snapshots"]
        environment = os.environ | {"CHECK": f"{redis_port} {backend}", "LOG_LOCATION": folder}
        subprocess.run([bin / "torchserve", *start], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main()
