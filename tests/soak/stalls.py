"""scripts/stalls: whether other clients wait while models and scripts are stored, backends imported, inference runs.

One client runs GET in a loop while another does what might disturb it, each time on a fresh server. The same is
measured on an idle server, beside a plain SET of as many bytes and beside another process that imports torch: what GET
waits there is the machine's doing or Redis's own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from testkit import networks
from testkit.load import (
    GET,
    SET,
    Load,
    Traffic,
    build_load,
    execution,
    modelstore,
    run_load,
    scriptstore,
    worst_get,
    worst_get_beside,
)
from testkit.process import watch_others
from testkit.server import fresh_server
from testkit.values import Model
from testkit.wire import encode
from tests.soak.chain import links
from tests.soak.lines import LineModel

CONNECTIONS = 50
MAX_MS = 20.0
MAX_RATIO = 3.0
WARMUP = 0.3
FUNCTIONS = 1000


def first_model(link: LineModel) -> bytes:
    """A request for which the library has to be imported."""
    return modelstore("m", link)


def beside_idleness(seconds: float) -> tuple[float, float]:
    with fresh_server() as on:
        return worst_get(on, partial(time.sleep, seconds))


def beside_process(program: str) -> tuple[float, float]:
    with fresh_server() as on:
        return worst_get(on, partial(subprocess.run, [sys.executable, "-c", program], check=True))


def p99_beside(traffic: Traffic, seconds: float) -> float:
    """Milliseconds within which 99 % of GETs are answered beside that traffic on many connections."""
    with fresh_server() as on, Load(on, traffic, CONNECTIONS) as load:
        load.start()
        result = run_load(on, GET, 1, seconds, WARMUP)
        load.finish(now=True)
    return float(result["p99_us"]) / 1e3


def line(text: str, values: list[float], limit: float | None = None, judged: float = 0.0, took: str = "") -> bool:
    verdict = "" if limit is None else f"under {limit:g}: {'yes' if judged < limit else 'NO'}"
    print(f"{text:<58}{median(values):>9.2f}{max(values):>9.2f}  {took:>9}  {verdict}", flush=True)
    return limit is None or judged < limit


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/stalls", description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long GET runs beside inference (default 2)")
    parser.add_argument("--megabytes", type=int, default=200, help="size of the large model (default 200)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a limit is missed")
    options = parser.parse_args()
    build_load()

    size = f"{options.megabytes} MB"
    cnn, large = networks.cnn(), networks.large(options.megabytes)
    tiny, script = (scriptstore(f"of{count}", "main", networks.script(count)) for count in (1, FUNCTIONS))
    plain, store = encode(("SET", "large", large)), modelstore("large", Model("ONNX", large))
    scenes: list[tuple[str, float | None, Callable[[], tuple[float, float]]]] = [
        ("an idle server", None, partial(beside_idleness, 1.0)),
        (f"a plain SET of {size}", None, partial(worst_get_beside, plain)),
        ("another process that imports torch", None, partial(beside_process, "import torch")),
        (f"an ONNX model of {size} being stored", MAX_MS, partial(worst_get_beside, store)),
        *((f"{link.backend} being imported", MAX_MS, partial(worst_get_beside, first_model(link))) for link in links()),
        (f"a script of {FUNCTIONS} functions being compiled", MAX_MS, partial(worst_get_beside, script, tiny)),
    ]
    held, others = True, watch_others()
    print(f"{'the slowest GET beside ..., in ms':<58}{'median':>9}{'worst':>9}  {'that took':>9}")
    for text, limit, measure in scenes:
        runs = [measure() for _ in range(options.repeat)]
        worst, took = [run[0] for run in runs], median(run[1] for run in runs)
        held &= line(text, worst, limit, max(worst), f"{took:.0f}")

    plain_p99, inference_p99 = [], []
    for _ in range(options.repeat):
        plain_p99.append(p99_beside(SET, options.seconds))
        inference_p99.append(p99_beside(execution("cnn", cnn), options.seconds))
    ratios = [ours / others for ours, others in zip(inference_p99, plain_p99, strict=True)]
    print(f"\n{f'p99 of GET beside {CONNECTIONS} connections of ..., in ms':<58}{'median':>9}{'worst':>9}")
    line("plain SET", plain_p99)
    line("inference (an mnist-sized CNN in ONNX, one worker)", inference_p99)
    held &= line("the ratio of the two", ratios, MAX_RATIO, median(ratios))
    print(f"other processes took {others():.2f} cores meanwhile")
    return int(options.check and not held)


if __name__ == "__main__":
    sys.exit(main())
