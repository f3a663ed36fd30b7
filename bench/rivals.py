"""The part "rivals": compares the credit-card network as a DAG with services that one would deploy instead.

Such a service is written in Python, reads the reference data of a card from Redis and runs the network with the same
library (bench/rivals_check.py): bench/rivals_fastapi.py, bench/rivals_litserve.py. The library called in a loop is the
third comparison: no service with one worker can be faster. Each alternates with ours; every answer is compared.

The part "aibench" measures more services. Those that ask for other versions of libraries than the module get an
environment of their own, which `.venv/bin/python -m bench.rivals NAME...` makes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.harness import ROOT, alternate, ratios, row, served
from bench.library_loop import library
from bench.report import Goal, Plan, Report, show, show_titles
from bench.rivals_check import KEY
from bench.throughput import check, dag_pair
from testkit import networks
from testkit.load import Result, Traffic, build_load, run_load
from testkit.server import Server, free_port, fresh_server
from testkit.waiting import wait_for

CONNECTIONS = (1, 10, 50)
JUDGED = 50
TIMES, P50_RATIO = 5.0, 1 / 3
START_SECONDS, STOP_SECONDS = 120.0, 10.0
LOOP = "rival-loop"
ENVIRONMENTS = ROOT / "build" / "rivals"


@dataclass(slots=True, frozen=True)
class Post:
    """How a service is asked over HTTP, and where the floats of its answer are."""

    path: str = "/predict"
    heads: str = "Content-Type: application/octet-stream\r\n"
    body: Callable[[bytes], bytes] = bytes  # of a transaction
    floats: Callable[[bytes], bytes] = bytes  # of the answer's body

    def request(self, transaction: bytes) -> bytes:
        body = self.body(transaction)
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\n{self.heads}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


@dataclass(slots=True, frozen=True)
class Rival:
    """A service: python -m bench.rivals_<name> (bench/rivals_check.py)."""

    name: str
    title: str
    packages: tuple[str, ...]  # as they are imported and installed
    post: Post = Post()
    apart: bool = False  # it needs an environment of its own

    @property
    def python(self) -> Path:
        return (ENVIRONMENTS / self.name / "bin" / "python") if self.apart else Path(sys.executable)

    def missing(self) -> str:
        """The command that installs what is missing, if anything is."""
        if self.apart:
            return "" if self.python.exists() else f".venv/bin/python -m bench.rivals {self.name}"
        packages = [package for package in self.packages if not find_spec(package)]
        return f".venv/bin/pip install {' '.join(packages)}" if packages else ""

    def install(self) -> None:
        """Its environment also sees the packages of ours, pip among them, where it has no version of its own."""
        folder = self.python.parent.parent
        venv.create(folder, clear=True, symlinks=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        (folder / "lib" / version / "site-packages" / "bench.pth").write_text(sysconfig.get_path("purelib") + "\n")
        try:
            subprocess.run([self.python, "-m", "pip", "install", *self.packages], check=True)
        except subprocess.CalledProcessError:
            self.python.unlink()  # it is not there
            raise


def numbers_of(transaction: bytes) -> list[float]:
    numbers: list[float] = np.frombuffer(transaction, np.float32).tolist()
    return numbers


def floats(numbers: list[float]) -> bytes:
    return np.array(numbers, np.float32).tobytes()


JSON = "Content-Type: application/json\r\n"
TENSOR: dict[str, Any] = {"name": "transaction", "shape": [1, networks.FRAUD[0]], "datatype": "FP32"}


def open_inference(transaction: bytes) -> bytes:
    return json.dumps({"id": "1", "inputs": [TENSOR | {"data": numbers_of(transaction)}]}).encode()


# The protocol's extension for binary data: JSON, then bytes.
TRITON_TENSOR = TENSOR | {"parameters": {"binary_data_size": networks.FRAUD[0] * 4}}
TRITON_OUTPUT = {"name": "output", "parameters": {"binary_data": True}}
TRITON_HEAD = json.dumps({"inputs": [TRITON_TENSOR], "outputs": [TRITON_OUTPUT]}).encode()

INFER = "/v2/models/fraud/infer"
TORCHSERVE = Post("/predictions/fraud")
MLSERVER = Post(INFER, JSON, open_inference, lambda body: floats(json.loads(body)["outputs"][0]["data"]))
BENTOML = Post(
    heads=JSON,
    body=lambda transaction: json.dumps({"transaction": [numbers_of(transaction)]}).encode(),
    floats=lambda body: floats(json.loads(body)),
)
TRITON = Post(
    INFER,
    f"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {len(TRITON_HEAD)}\r\n",
    lambda transaction: TRITON_HEAD + transaction,
    lambda body: body[-networks.FRAUD[-1] * 4 :],
)

SERVICE = ("fastapi", "uvicorn", "uvloop", "httptools", "redis", "hiredis", "onnxruntime")
RIVALS = (Rival("fastapi", "FastAPI", SERVICE), Rival("litserve", "LitServe", ("litserve", *SERVICE)))
MORE = (
    Rival("flask", "Flask", ("flask", "gunicorn", "redis", "hiredis")),
    Rival("torchserve", "TorchServe", ("torchserve", "torch-model-archiver"), TORCHSERVE, apart=True),
    Rival("triton", "Triton", ("nvidia-pytriton",), TRITON, apart=True),
    Rival("mlserver", "MLServer", ("mlserver",), MLSERVER, apart=True),
    Rival("bentoml", "BentoML", ("bentoml",), BENTOML, apart=True),
    Rival("ray", "Ray Serve", ("ray[serve]",), apart=True),
)


# ---- the services ----------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Service:
    port: int
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def serve(rival: Rival, redis_port: int, backend: str) -> Iterator[Service]:
    """Starts a service in a process group of its own, since it may start processes. It also ends if we are killed.

    What it leaves in its temporary folder is removed. What it says is in build/rivals/<name>.log.
    """
    port = free_port()
    words = ["setpriv", "--pdeathsig", "TERM", "--", str(rival.python), "-m", f"bench.rivals_{rival.name}"]
    words += [str(port), str(redis_port), backend]
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": folder}  # also for the processes that it starts
        log = ENVIRONMENTS / f"{rival.name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            yield Service(port, process, log)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with suppress(ProcessLookupError):  # processes that it started may outlive it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(service: Service, post: Post, transaction: bytes) -> bytes:
    """The body of the answer; nothing while the service is not ready."""
    if service.process.poll() is not None:
        raise RuntimeError(f"it ended with {service.process.returncode}: see {service.log}")
    connection = HTTPConnection("127.0.0.1", service.port, timeout=START_SECONDS)
    heads = dict(line.split(": ") for line in post.heads.splitlines())
    with suppress(ConnectionError):
        connection.request("POST", post.path, post.body(transaction), heads)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return body if response.status == 200 else b""
    return b""


def traffic(service: Service, rival: Rival, model: networks.Network) -> Traffic:
    """Waits until the service answers. The answer must be right, and from then on the same to the byte."""
    transaction = model.feed.tobytes()
    wait_for(partial(ask, service, rival.post, transaction), START_SECONDS, f"{rival.title} answers")
    bodies = [ask(service, rival.post, transaction) for _ in range(5)]  # PyTorch generates code in the second run
    check(rival.name, model, rival.post.floats(bodies[-1]))
    return Traffic(rival.post.request(transaction), bodies[-1], http=True)


# ---- measuring -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Contest:
    """What a service is measured beside."""

    case: str
    on: Server
    ours: Traffic
    model: networks.Network
    reference: bool = True


def beside_service(plan: Plan, rival: Rival, of: Contest, counts: tuple[int, ...]) -> Iterator[Result]:
    """One row for each number of connections. A quick look has the last one only."""
    with serve(rival, of.on.port if of.reference else 0, of.model.backend) as service:
        theirs = traffic(service, rival, of.model)
        run_load(service, theirs, counts[-1], 0.2, 0.2)  # the first requests open connections to Redis
        for connections in counts[-1:] if plan.quick else counts:
            much = connections, plan.seconds
            sides = alternate(plan.repeat, served(of.on, of.ours, *much), served(service, theirs, *much))
            measured = row(of.case, rival.title, connections, sides[0], sides[1])
            yield measured | {"p50_share": median(ratios(sides[0], sides[1], "p50_us"))}


def beside_loop(plan: Plan, on: Server, ours: Traffic) -> Result:
    """Compares rates only: a loop has no waiting clients, so no latencies."""
    with library(networks.fraud("ONNX")) as loop:
        looped = partial(loop.result, 1, plan.seconds)
        sides = alternate(plan.repeat, served(on, ours, JUDGED, plan.seconds), looped)
    return row(LOOP, "a loop", JUDGED, sides[0], sides[1])


def judge(measured: Result) -> Iterator[Goal]:
    if measured["connections"] == JUDGED and "p50_share" in measured:
        text = f"the credit-card case as a DAG, {JUDGED} connections, beside {measured['against']}: "
        yield Goal(f"{text}times its throughput", measured["share"], TIMES)
        yield Goal(f"{text}share of its p50", measured["p50_share"], P50_RATIO, at_most=True)


def rows(plan: Plan, report: Report) -> Iterator[Result]:
    wanted = [rival for rival in RIVALS if plan.wants(f"rival-{rival.name}")]
    if not wanted and not plan.wants(LOOP):
        return
    model = networks.fraud("ONNX")
    with fresh_server() as on:
        ours = dag_pair("fraud", "ONNX", (), on).measured
        store_reference(on, model)
        for rival in wanted:
            if missing := rival.missing():
                report.skipped.append(f"{rival.title}: {missing}")
                continue
            yield from beside_service(plan, rival, Contest(f"rival-{rival.name}", on, ours, model), CONNECTIONS)
        if plan.wants(LOOP):
            yield beside_loop(plan, on, ours)


def store_reference(on: Server, model: networks.Network) -> None:
    """As the services read it."""
    with on.wire() as wire:
        wire.ask("SET", KEY, model.feeds[1][1].tobytes())


def run(plan: Plan) -> Report:
    build_load()
    report = Report()
    show_titles()
    for measured in rows(plan, report):
        show(measured)
        report.rows.append(measured)
        report.goals += judge(measured)
    return report


if __name__ == "__main__":
    apart = {rival.name: rival for rival in MORE if rival.apart}
    if len(sys.argv) == 1 or set(sys.argv[1:]) - apart.keys():
        sys.exit(f"usage: python -m bench.rivals NAME...: {', '.join(apart)}")
    for name in sys.argv[1:]:
        apart[name].install()
