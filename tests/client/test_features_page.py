"""docs/features.md: its programs and sessions give what the page says, in order. Its script reads what Feast writes."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path

import numpy as np
import pytest
import redis
from redisai_module.client import RedisAI

from testkit.server import Server
from tests.tools.test_docs import ask, blocks, cli, session


def test_page(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    replies = 0
    for language, text in blocks("docs/features.md"):
        if text.startswith("# feast_features.py\n"):
            Path("feast_features.py").write_text(text)
        elif language == "python":
            capsys.readouterr()
            Path("program.py").write_text(text.replace("redis.Redis()", f"redis.Redis(port={server.port})"))
            runpy.run_path("program.py", run_name="__main__")  # a file, because TorchScript reads its source
            printed = capsys.readouterr().out.strip()
            assert printed in text
        elif language == "sh" and "<" in text:
            words = text.replace("redis-cli", f"{cli()} -p {server.port}", 1)
            assert subprocess.check_output(words, shell=True, text=True, timeout=60) == "OK\n"
        for command, reply in session(text):
            assert ask(server, command) == reply, command
            replies += 1
    assert replies > 5 and printed


def test_values_of_feast(server: Server) -> None:
    """What feast.protos.feast.types.Value_pb2.Value(...).SerializeToString() gave."""
    values = {
        b"5\0\0\0?": 0.5,  # float_val
        b"5\0\0\0\0": 0,
        b")\0\0\0\0\0\0\xd0?": 0.25,  # double_val
        b" \0": 0,  # int64_val
        b" \xac\2": 300,
        b" " + b"\xff" * 9 + b"\1": -1,
        b"\x18\7": 7,  # int32_val
        b"8\1": 1,  # bool_val
        b"": np.nan,  # no value
    }
    script = next(text for _, text in blocks("docs/features.md") if text.startswith("# feast_features.py\n"))
    with redis.Redis(port=server.port) as r:
        ai = RedisAI(r)
        ai.script_store("feast", script, entry_points=["features"])
        r.hset("entity", mapping={str(number): value for number, value in enumerate([*values, b"\x12\1x"])})
        ai.script_execute("feast", "features", keys=["entity"], args=range(len(values)), outputs="row")
        np.testing.assert_array_equal(ai.tensor_get("row"), [list(values.values())])
        with pytest.raises(redis.ResponseError, match="a feature is neither a number nor a bool"):
            ai.script_execute("feast", "features", keys=["entity"], args=[len(values)], outputs="row")
