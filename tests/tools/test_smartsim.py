"""docs/smartsim.md: SmartSim starts a database with this module, and SmartRedis uses it, there and on any server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from testkit import models
from testkit.server import Server, free_port
from tests.tools.test_docs import clients_program, page_blocks

ROOT = Path(__file__).resolve().parents[2]
MODULE_PATH = "~/redisai-venv/bin/redisai-server"

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from smartredis import Client, Dataset
from smartsim import Experiment

folder, port, model = sys.argv[1:]
experiment = Experiment("experiment", launcher="local", exp_path=folder)
database = experiment.create_database(port=int(port), interface="lo", threads_per_queue=2)
experiment.generate(database)
experiment.start(database)
try:
    client = Client(address=database.get_address()[0], cluster=False)
    client.put_tensor("a", np.array([[1, 2]], np.float32))
    client.set_model("model", Path(model).read_bytes(), "ONNX", device="CPU")
    client.run_model("model", inputs=["a", "a"], outputs=["b"])
    client.set_script("script", "def double(x):\\n    return x * 2\\n", device="CPU")
    client.run_script("script", "double", ["b"], ["c"])
    dataset = Dataset("dataset")
    dataset.add_tensor("c", client.get_tensor("c"))
    client.put_dataset(dataset)
    print("RESULT", client.get_dataset("dataset").get_tensor("c").tolist(), client.model_exists("model"))
finally:
    experiment.stop(database)
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="SmartSim needs Python 3.11 or earlier")
@pytest.mark.timeout(600)
def test_smartsim(tmp_path: Path, server: Server) -> None:
    def shell(script: str) -> str:
        done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    page = (ROOT / "docs" / "smartsim.md").read_text()
    versions = re.search(r"SmartSim (\S+) and SmartRedis (\S+) need Python", page)
    assert versions
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "model.onnx").write_bytes(models.onnx_mul())
    experiment = tmp_path / "experiment"
    experiment.mkdir()
    environment = f"export PATH={tmp_path}/venv/bin:$PATH SR_SOCKET_TIMEOUT=10000\n"
    shell(f"{sys.executable} -m venv venv")
    shell(environment + f"pip install --quiet smartsim=={versions[1]} smartredis=={versions[2]}")
    copying, variable = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shell(environment + copying)
    variable = variable.replace(MODULE_PATH, f"{sys.prefix}/bin/redisai-server")
    answer = shell(environment + variable + f"python program.py {experiment} {free_port()} model.onnx")
    assert "RESULT [[2.0, 8.0]] True" in answer, answer

    # SmartRedis alone: the session of docs/clients.md
    exec(clients_program("Clients").replace("fahrenheit.onnx", f"{tmp_path}/fahrenheit.onnx"), {})
    (tmp_path / "session.py").write_text(clients_program("SmartRedis and SmartSim"))
    (address,) = page_blocks("docs/clients.md", "SmartRedis and SmartSim", "sh")
    answer = shell(environment + address.replace("6379", str(server.port)) + "python session.py")
    assert "[ 98.6 212. ]" in answer, answer
