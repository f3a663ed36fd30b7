"""The part "loops": the module beside the library itself in a plain loop, or with --other beside another module.

The library's loop (bench/library_loop.py) has neither server nor clients. Where requests run in batches, so do those of
the loop. A case without a library is compared with plain Redis only. The cases are those of bench/throughput.py that
have a loop, and those below; with --other they are all of both, and a second server has the other module. Short rounds
alternate.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from statistics import median

import numpy as np

from bench import throughput
from bench.harness import alternate, ratios, row, served
from bench.library_loop import library
from bench.report import Plan, Report, show, show_titles, turns
from bench.throughput import Case, Pair, output_of, run_pair, send
from testkit import networks
from testkit.load import SET, Result, Traffic, bulk, modelstore, scriptstore, tensorset
from testkit.server import Server, fresh_server
from testkit.wire import Error, Word, encode

CONNECTIONS = (1, 50)
SHORT, ROUNDS = 1 / 5, 2  # of plan.seconds for a round, and rounds for each of plan.repeat
QUICK = ("script", "tensorset-values-30", "mlp-torch")
DOUBLE = "def double(tensors: List[Tensor], keys: List[str], args: List[str]):\n    return tensors[0] * 2\n"


# ---- cases -----------------------------------------------------------------------------------------------------------


def warm(on: Server, request: bytes) -> Traffic:
    """Runs it a few times, since the first runs are slow. Every later answer must be the same as the last of these."""
    with on.wire() as wire:
        for _ in range(5):
            wire.socket.sendall(request)
            reply = wire.read()
            for each in reply if isinstance(reply, list) else [reply]:
                if isinstance(each, Error):
                    raise RuntimeError(each)
        wire.socket.sendall(request + encode(("PING",)))  # its reply tells where the one before ends
        return Traffic(request, b"".join(takewhile(b"+PONG\r\n".__ne__, wire.stream)))


def script_pair(name: str, on: Server) -> Pair:
    model = networks.doubled()
    send(on, scriptstore(name, "double", DOUBLE), tensorset(f"{name}:x", model.feed))
    words = ("AI.SCRIPTEXECUTE", name, "double", "INPUTS", 1, f"{name}:x", "OUTPUTS", 1, f"{name}:out")
    return Pair(warm(on, encode(words)), SET, partial(output_of, on, name, model))


def dag_pair(name: str, on: Server) -> Pair:
    """A script, a model and the script again."""
    whole, model = networks.mlp_between()
    script, x, out = f"{name}:double", f"{name}:x", f"{name}:out"
    send(on, scriptstore(script, "double", DOUBLE), modelstore(name, model), tensorset(x, whole.feed))
    words: list[Word] = ["AI.DAGEXECUTE", "LOAD", 1, x, "PERSIST", 1, out]
    words += ["|>", "AI.SCRIPTEXECUTE", script, "double", "INPUTS", 1, x, "OUTPUTS", 1, "a"]
    words += ["|>", "AI.MODELEXECUTE", name, "INPUTS", 1, "a", "OUTPUTS", 1, "b"]
    words += ["|>", "AI.SCRIPTEXECUTE", script, "double", "INPUTS", 1, "b", "OUTPUTS", 1, out]
    return Pair(warm(on, encode(tuple(words))), SET, partial(output_of, on, name, whole))


def check_values(on: Server, key: str, values: networks.Floats) -> None:
    with on.wire() as wire:
        stored = wire.ask("AI.TENSORGET", key, "VALUES")
    if not np.array_equal(np.array(stored, np.float32), values):
        raise RuntimeError(f"AI.TENSORGET {key} VALUES: other values than were stored")


def values_pair(name: str, count: int, get: bool, on: Server) -> Pair:
    """The other side is a SET or GET of as many bytes as the numbers have."""
    values = networks.random(count)
    words = list(map(str, values.tolist()))
    store, text = encode(("AI.TENSORSET", name, "FLOAT", count, "VALUES", *words)), " ".join(words).encode()
    send(on, store, setting := encode(("SET", f"{name}:text", text)))
    check = partial(check_values, on, name, values)
    if not get:
        return Pair(warm(on, store), Traffic(setting), check)
    measured = warm(on, encode(("AI.TENSORGET", name, "VALUES")))
    return Pair(measured, Traffic(encode(("GET", f"{name}:text")), bulk(text)), check)


def own() -> Iterator[Case]:
    def case(name: str, prepare: Callable[[Server], Pair], loop: Callable[[], networks.Network]) -> Case:
        return Case(name, "SET", prepare, CONNECTIONS, loop)

    def run(name: str, build: Callable[[], networks.Network]) -> Case:
        return case(name, partial(run_pair, name, build, ()), build)

    yield case("script", partial(script_pair, "script"), networks.doubled)
    yield case("script-dag", partial(dag_pair, "script-dag"), lambda: networks.mlp_between()[0])
    yield run("sum-torch", networks.added)
    yield run("cnn-torch", networks.cnn_torch)
    yield replace(run("cnn-torch-two", networks.cnn_torch), workers=2)
    yield replace(run("mlp-torch-busy", partial(networks.mlp, "TORCH")), busy=True)
    for count in 30, 1000:
        for what in "set", "get":
            name = f"tensor{what}-values-{count}"
            yield Case(name, what.upper(), partial(values_pair, name, count, what == "get"), CONNECTIONS)


def cases() -> list[Case]:
    return [*throughput.cases(), *own()]


# ---- measuring -------------------------------------------------------------------------------------------------------


class Refused(RuntimeError):
    """The other module cannot run a case."""


@contextmanager
def asking_the_other() -> Iterator[None]:
    """Whatever goes wrong with another module is its own affair: the other cases are still measured."""
    try:
        yield
    except Exception as error:
        raise Refused(f"the other refused: {error}") from error


class Servers(ExitStack):
    """Started when they are first asked for: one for each number of workers, and as many with the other module."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.started: dict[tuple[bool, int], Server] = {}

    def get(self, workers: int, other: bool = False) -> Server:
        if (other, workers) not in self.started:
            module, program = (Path(self.plan.other), self.plan.other_server or None) if other else (None, None)
            server = self.enter_context(fresh_server(workers, module=module, program=program))
            self.started[other, workers] = server
        server = self.started[other, workers]
        if server.process and server.process.poll() is not None:  # the last case ended it
            server.start()
        return server


@dataclass(slots=True, frozen=True)
class Side:
    against: str  # the name of what ours is compared with
    measure: Callable[[int, float], Result]  # with so many connections, for so many seconds
    check: Callable[[], object] | None = None


def of_pair(on: Server, against: str, pair: Pair) -> Side:
    return Side(against, lambda connections, seconds: served(on, pair.measured, connections, seconds)(), pair.check)


def of_other(on: Server, case: Case) -> Side:
    with asking_the_other():
        side = of_pair(on, "other", case.prepare(on))

    def measure(connections: int, seconds: float) -> Result:
        with asking_the_other():
            return side.measure(connections, seconds)

    def check() -> None:
        with asking_the_other():
            if side.check:
                side.check()

    return Side("other", measure, check)


def sides(case: Case, servers: Servers, loops: ExitStack) -> Iterator[Side]:
    """Ours, and what it is compared with."""
    on = servers.get(case.workers)
    pair = case.prepare(on)
    yield of_pair(on, "", pair)
    if servers.plan.other:
        yield of_other(servers.get(case.workers, other=True), case)
        return
    yield of_pair(on, case.against, Pair(pair.plain, pair.plain))
    if case.workers > 1:
        single = servers.get(1)
        yield of_pair(single, "one worker", case.prepare(single))
    if case.loop:
        loop = loops.enter_context(library(case.loop()))
        yield Side("library", lambda connections, seconds: loop.result(min(case.batch, connections), seconds))


@contextmanager
def busy_core() -> Iterator[None]:
    words = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(words) as process:
        try:
            yield
        finally:
            process.kill()


def measure(case: Case, plan: Plan, servers: Servers) -> Iterator[Result]:
    with ExitStack() as loops:
        compared = list(sides(case, servers, loops))
        for connections in (n for n in case.connections if n in CONNECTIONS):
            runs = [partial(side.measure, connections, plan.seconds * SHORT) for side in compared]
            with busy_core() if case.busy else nullcontext():
                ours, *others = alternate(plan.repeat * ROUNDS, *runs)
            for side in compared:
                if side.check:
                    side.check()
            for side, theirs in zip(compared[1:], others, strict=True):
                shares = ratios(ours, theirs)
                measured = row(case.name, side.against, connections, ours, theirs)
                measured |= {"share_min": min(shares), "share_max": max(shares)}
                measured["p99_turns"] = turns(measured, connections)
                if "p99_us" in measured["plain"]:
                    measured["plain"]["p99_turns"] = turns(measured["plain"], connections)
                    measured["p99_share"] = median(ratios(ours, theirs, "p99_us"))
                yield measured


def run(plan: Plan) -> Report:
    report = Report()
    known = [*(case for case in throughput.cases() if case.loop or plan.other), *own()]
    wanted = throughput.chosen(plan, known, QUICK)
    if not wanted:
        return report
    show_titles()
    with Servers(plan) as servers:
        for case in wanted:
            try:
                for measured in measure(case, plan, servers):
                    show(measured)
                    report.rows.append(measured)
            except Refused as refusal:
                report.skipped.append(f"{case.name}: {refusal}")
                print(f"{case.name:<21}  {refusal}", flush=True)
    # The library has fewer numbers: one table for it, one for all else.
    report.rows.sort(key=lambda measured: measured["against"] == "library")
    return report
