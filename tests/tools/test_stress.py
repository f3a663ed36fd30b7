"""The short form of scripts/stress: queues, runs, batches and replies of the C side under sanitizers."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "stress"


@pytest.mark.parametrize("isolation", ["none", "process"])
@pytest.mark.parametrize(("sanitizers", "seconds"), [("thread", 10), ("address,undefined", 5)])
def test_no_race_no_leak_and_every_reply(sanitizers: str, seconds: int, isolation: str) -> None:
    seed = time.time_ns() % 2**32
    words = [str(SCRIPT), "--seconds", str(seconds), "--seed", str(seed), "--sanitize", sanitizers]
    words += ["--isolation", isolation]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 200)
    assert ended.returncode == 0, f"{' '.join(words[1:])}\n{ended.stdout}{ended.stderr}"
    assert "Sanitizer" not in ended.stderr
    found = re.search(r"requests (\d+)", ended.stdout)
    assert found and int(found[1]) > 500
    if isolation == "none":
        assert "allocations left 0" in ended.stdout
