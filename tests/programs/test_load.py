"""redisai-load: files with their TOML, Triton's folders, the swap of versions, errors, clusters, and docs/load.md."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from redisai_module.programs.models import Model, find

from testkit import models
from testkit.server import Client, Server
from testkit.waiting import wait_for
from tests.conftest import StartServer
from tests.tools.test_docs import blocks, page_blocks

PROGRAM = str(Path(sys.executable).parent / "redisai-load")


def load(server: Server, *words: object, status: int = 0) -> tuple[list[str], list[str]]:
    """The lines that it printed, and those of its errors."""
    command = [PROGRAM, "--url", f"redis://127.0.0.1:{server.port}", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def meta(r: Client, key: str) -> dict[str, Any]:
    reply = r.execute_command("AI.MODELGET", key, "META")
    found = {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def test_the_page(server: Server, r: Client, tmp_path: Path) -> None:
    page = "docs/load.md"
    (command,) = page_blocks(page, "Loading folders of models: redisai-load", "sh")
    printed = next(text for language, text in blocks(page) if not language)
    toml, more = page_blocks(page, "How files are named", "toml")
    right: dict[str, bytes | str] = {"text/tokens.onnx": models.onnx_mul(), "fraud.onnx": models.onnx_add()}
    right |= {"fraud.toml": toml, "text/tokens.toml": more}
    write(tmp_path / "models", {**right, "README": "", ".hidden/a.onnx": ""})
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=tmp_path,
        env={"PATH": f"{Path(PROGRAM).parent}:/usr/bin:/bin", "REDIS_URL": f"redis://127.0.0.1:{server.port}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert re.sub(r"\d+\.\d", "_", done.stdout) == re.sub(r"\d+\.\d", "_", printed), done.stderr
    found = meta(r, "fraud")
    assert (found["tag"], found["batchsize"], found["minbatchsize"], found["minbatchtimeout"]) == ("v3", 32, 8, 5)
    found = meta(r, "text:tokens")
    assert found["outputs"] == [b"product"] and found["batchsize"] == -1
    assert (found["priority"], found["cache"], len(found["warmup"])) == ("high", 1_000_000, 2)
    assert sorted(r.keys()) == [b"fraud", b"text:tokens"], "no temporary key stays"


def test_triton(server: Server, r: Client, tmp_path: Path) -> None:
    add = models.onnx_add()
    write(tmp_path, {
        "fraud/config.pbtxt": """
            platform: "onnxruntime_onnx"  # a comment
            max_batch_size: 16
            input [ { name: "a" data_type: TYPE_FP32 dims: [ 2 ] } ]
            instance_group [ { kind: KIND_CPU count: 2 }, { kind: KIND_GPU gpus: [ 1 ] } ]
            dynamic_batching { preferred_batch_size: [ 8, 4 ] max_queue_delay_microseconds: 1500 }
            optimization { graph { level: 1 } }
        """,
        "fraud/1/model.onnx": "old", "fraud/2/model.onnx": "old", "fraud/10/model.onnx": add, "fraud/0x/a": "",
        "plain/1/model.onnx": add,
        "chosen/config.pbtxt": 'backend: "onnxruntime" default_model_filename: "m" '
        "version_policy: { specific: { versions: [ 1, 4 ] } }",
        "chosen/4/m": add, "chosen/5/m": "not chosen",
    })  # fmt: skip
    lines, errors = load(server, tmp_path)
    assert errors == [] and lines[-1] == "3 loaded, 0 failed"
    assert "fraud: a model has one device here: CPU, the first that config.pbtxt names" in lines
    wanted = {
        "fraud": ("ONNX", "CPU", "10", 16, 4, 2),
        "plain": ("ONNX", "CPU", "1", 0, 0, 0),
        "chosen": ("ONNX", "CPU", "4", 0, 0, 0),
    }
    fields = ("backend", "device", "tag", "batchsize", "minbatchsize", "minbatchtimeout")
    assert {key: tuple(meta(r, key)[field] for field in fields) for key in wanted} == wanted


def test_other_backends_of_triton(tmp_path: Path) -> None:
    """Without a server: their libraries take seconds to import."""
    write(tmp_path, {
        "graph/config.pbtxt": """
            backend: "tensorflow" name: "g" input { name: "a" } input { name: "b" } output { name: "sum" }
            max_batch_size: 8 dynamic_batching { } instance_group { kind: KIND_GPU gpus: [ 2 ] }
        """,
        "graph/3/model.graphdef": "", "torch/1/model.pt": "",
    })  # fmt: skip
    model, torch = find([tmp_path])
    assert isinstance(model, Model) and (model.key, model.path) == ("g", tmp_path / "graph/3/model.graphdef")
    assert model.settings == {
        "backend": "TF", "inputs": ["a", "b"], "outputs": ["sum"], "device": "GPU:2", "batch_size": 8, "tag": "3",
    }  # fmt: skip
    assert isinstance(torch, Model) and torch.settings == {"backend": "TORCH", "tag": "1"}


def test_errors(server: Server, r: Client, tmp_path: Path) -> None:
    """Each names the file and the way out; what is right is loaded all the same."""
    r.set("taken", "a string")
    add = models.onnx_add()
    write(tmp_path, {
        "bad.onnx": b"\x08nonsense", "good.onnx": add, "good2.onnx": add, "good2.toml": 'key = "good"',
        "taken.onnx": add, "typo.onnx": add, "typo.toml": "batchsize = 2",
        "kind.onnx": add, "kind.toml": 'inputs = "x"', "cold.onnx": add, "cold.toml": 'warmup = ["FLOAT a"]',
        "broken.onnx": add, "broken.toml": "tag = ", "graph.pb": b"", "alone.toml": "",
        "ensemble/config.pbtxt": 'platform: "ensemble"', "ensemble/1/x": "",
        "empty/config.pbtxt": 'backend: "onnxruntime"', "text/config.pbtxt": "max_batch_size: many",
        "outside/config.pbtxt": 'backend: "onnxruntime" default_model_filename: "../../good.onnx"', "outside/1/x": "",
        "nograph/config.pbtxt": 'backend: "tensorflow"', "nograph/1/model.graphdef": b"",
    })  # fmt: skip
    lines, errors = load(server, tmp_path, status=1)
    assert lines[-1] == "1 loaded, 14 failed"
    found = {line.split(": ")[1].removeprefix(f"{tmp_path}/"): line.split(": ", 2)[2] for line in errors}
    for name, text in {
        "bad.onnx": "Failed to load model",
        "good2.onnx": "has the key good, as",
        "taken.onnx": "would replace the key taken, a string; delete that",
        "typo.onnx": "typo.toml has 'batchsize'; there are key, backend",
        "kind.onnx": "kind.toml: inputs must be a list of strings",
        "cold.onnx": "cold.toml: warmup must be a type and a shape for each input",
        "broken.onnx": "broken.toml cannot be read: Invalid value",
        "graph.pb": "name its nodes in graph.toml",
        "alone.toml": "has no model beside it",
        "ensemble": "config.pbtxt says ensemble, which no library here runs",
        "empty": "has no version",
        "text": "config.pbtxt cannot be read: 1:17",
        "outside": "must be the name of a file",
        "nograph": "name its nodes by input and output in config.pbtxt",
    }.items():
        assert text in found[name], (name, found[name])
    assert sorted(r.keys()) == [b"good", b"taken"] and r.get("taken") == b"a string"


def test_a_server_that_is_none(server: Server, start_server: StartServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.onnx": models.onnx_add()})
    plain = start_server(module=None)
    assert "the server has not loaded the module" in load(plain, tmp_path, status=1)[1][0]
    assert load(server, tmp_path / "b.onnx", status=1)[1] == [f"redisai-load: {tmp_path}/b.onnx: is not there"]
    assert "has no models" in load(server, write(tmp_path, {"c/d": ""}) / "c", status=1)[1][0]
    plain.kill()
    (error,) = load(plain, tmp_path, "--url", f"redis://:secret@127.0.0.1:{plain.port}", status=1)[1]
    assert f"redis://127.0.0.1:{plain.port}: " in error and "secret" not in error


def read_until(process: subprocess.Popen[str], *wanted: str) -> None:
    """Reads lines until all of these words were in them; fails where the program ends before."""
    text = ""
    assert process.stdout
    while not all(words in text for words in wanted):
        line = process.stdout.readline()
        assert line, text
        text += line


def test_watch(server: Server, r: Client, tmp_path: Path) -> None:
    """A new version takes the place of the old one, and one that cannot be compiled does not."""
    write(tmp_path, {"m.onnx": models.onnx_add(), "stays.onnx": models.onnx_add()})
    url = f"redis://127.0.0.1:{server.port}"
    command = [PROGRAM, "--watch", "--url", url, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        read_until(process, "m: ONNX", "stays: ONNX", "2 loaded", "watching")
        write(tmp_path, {"m.onnx": b"\x08nonsense", "stays.toml": 'tag = "v2"'})
        read_until(process, "m.onnx: ", "stays: ONNX CPU tag v2")
        assert meta(r, "m")["outputs"] == [b"sum"]
        write(tmp_path, {"m.onnx": models.onnx_mul()})
        read_until(process, "m: ONNX")
        assert meta(r, "m")["outputs"] == [b"product"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()


def test_cluster(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--cluster-enabled", "yes")
    with server.client() as r, server.wire() as wire:
        assert wire.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383) == b"OK"
        wait_for(lambda: b"cluster_state:ok" in wire.ask("CLUSTER", "INFO"))
        keys = ["a{b", "m", "m{eu}"]
        write(tmp_path, {f"{key}.onnx": models.onnx_add() for key in keys})
        for _ in range(2):
            assert load(server, tmp_path, "--cluster")[0][-1] == "3 loaded, 0 failed"
        assert sorted(r.keys()) == [key.encode() for key in keys]
