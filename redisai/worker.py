"""The worker loop: takes runs from a device's queue, runs their models and scripts, hands them back.

Each worker is a Python thread of its own, THREADS_PER_QUEUE for each queue. They share only the table of sessions,
which the loader alone changes. A run with one input and one output costs 2.5 to 2.8 us here beyond the backend's run().
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, TypeAlias

from _redisai_bridge import ffi, lib

from .protocol import Session, one_line
from .scripts import ScriptEntry, run_script
from .tensors import as_array, set_output

if TYPE_CHECKING:
    from _redisai_bridge import Queue, Run

    from .protocol import Array

MOST_RUNS = 32
SHARE = 200_000  # ns of work to take at once, and for which a finished run may wait for others
REPORT_EVERY = 100_000_000  # ns
INPUTS_MISMATCH = b"Number of keys given as INPUTS here does not match model definition"
OUTPUTS_MISMATCH = b"Number of keys given as OUTPUTS here does not match model definition"

_WAITING: int = lib.RUN_WAITING


class Entry:
    """A model's session in the table, with what the workers need of it at hand."""

    __slots__ = ("duration", "ninputs", "noutputs", "outputs", "run")

    def __init__(self, session: Session) -> None:
        inputs, outputs = session.inputs, session.outputs
        self.run = session.run
        self.outputs: Sequence[str] = outputs or ()
        self.ninputs = -1 if inputs is None else len(inputs)
        self.noutputs = -1 if outputs is None else len(outputs)
        self.duration = 0  # ns, of its latest run


Sessions: TypeAlias = Mapping[int, Entry | ScriptEntry]


def start_worker(queue: Queue, device: str, index: int, sessions: Sessions, report: Callable[[], None]) -> None:
    arguments = (queue, index, sessions, report)
    threading.Thread(target=_work, args=arguments, name=f"{device}-{index}", daemon=True).start()


def _work(queue: Queue, index: int, sessions: Sessions, report: Callable[[], None]) -> None:
    """Takes about SHARE ns of work at once: more would keep it from the queue's other workers.

    The slowest of recent runs decides how many runs that is. Finished runs wait for the end of the batch, but neither
    longer than SHARE nor for a model known to be slow.
    """
    runs = ffi.new("Run *[]", MOST_RUNS)
    expected = SHARE
    next_report = 0
    while True:
        count = lib.bridge_take_runs(queue, index, runs, max(1, min(MOST_RUNS, SHARE // expected)))
        returned = 0
        slowest = 1
        begin = oldest = perf_counter_ns()
        for done in range(count):
            run = runs[done]
            if done > returned and (entry := sessions.get(run.id)) is not None and entry.duration > SHARE:
                lib.bridge_give_back(runs + returned, done - returned)
                returned = done
            _run(run, sessions)
            end = perf_counter_ns()
            slowest = max(slowest, end - begin)
            if done == returned:
                oldest = end
            elif end - oldest > SHARE:
                lib.bridge_give_back(runs + returned, done + 1 - returned)
                returned = done + 1
            begin = end
        if begin > next_report:
            report()
            next_report = begin + REPORT_EVERY
        if returned < count:
            lib.bridge_give_back(runs + returned, count - returned)
        expected = max(slowest, expected * 3 // 4)


def _run(run: Run, sessions: Sessions) -> None:
    """Everything that one run holds is gone when this returns, before the run is given back."""
    try:
        if run.state != _WAITING:
            return
        entry = sessions.get(run.id)
        if entry is None:
            raise RuntimeError("the model or script is not loaded")
        if isinstance(entry, ScriptEntry):
            run_script(run, entry, sessions)
            return
        ninputs, noutputs = run.ninputs, run.noutputs
        if ninputs != entry.ninputs and entry.ninputs >= 0:
            lib.bridge_fail(run, INPUTS_MISMATCH)
            return
        if noutputs != entry.noutputs and entry.noutputs >= 0:
            lib.bridge_fail(run, OUTPUTS_MISMATCH)
            return
        tensors = run.inputs
        inputs = [as_array(tensors[index]) for index in range(ninputs)]
        begin = perf_counter_ns()
        try:
            outputs = entry.run(inputs)
        finally:
            entry.duration = duration = perf_counter_ns() - begin
            run.duration = duration // 1000
        if len(outputs) < noutputs:
            lib.bridge_fail(run, OUTPUTS_MISMATCH)
            return
        _hand_over(run, noutputs, outputs, entry.outputs)
    except BaseException as error:
        lib.bridge_fail(run, one_line(error).encode(errors="replace"))


def _hand_over(run: Run, count: int, outputs: Sequence[Array | None], names: Sequence[str]) -> None:
    for index in range(count):
        array = outputs[index]
        if array is not None and not set_output(run, index, array, names[index] if names else ""):
            return
