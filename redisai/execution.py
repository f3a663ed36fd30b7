"""Executes ops: one alone, or several as one batch. Workers enter.

The loader keeps an entry for each compiled model and script, in a table by id. A model's entry also records whether the
model has proven fit for batches. Workers write that without a lock: it does not matter which of them is first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from _redisai_bridge import ffi, lib

from .batcher import PRIORITIES, Limits
from .ports import explained, least_inputs, ports_of
from .protocol import Session, one_line
from .tensors import as_array, fail, gather, scatter, set_output
from .tuner import Batch, Tuner

if TYPE_CHECKING:
    from _redisai_bridge import CData, Op, Runnable

    from .direct import DirectRunner
    from .protocol import Array

INPUTS_MISMATCH = b"Number of keys given as INPUTS here does not match model definition"
TOLD_EVERY = 16  # runs
FOR_EVER = 1 << 62  # ops
OUTPUTS_MISMATCH = b"Number of keys given as OUTPUTS here does not match model definition"


class Batching:
    """Runs the session of a model with BATCHSIZE, and learns from the runs whether the model can be batched.

    Some models accept one batch size only. In others, the 0th dimension of an output is not the batch. Only runs show
    that. So the engine batches with care until runs with different numbers of rows have succeeded. Until then C may run
    only what teaches nothing new.
    """

    __slots__ = (
        "_direct",
        "_label",
        "_runnable",
        "_session",
        "_tuning",
        "_under_lock",
        "is_fixed",
        "limits",
        "proven",
        "rows_seen",
        "tuner",
    )

    def __init__(
        self,
        runnable: Runnable,
        session: Session,
        direct: DirectRunner | None,
        limits: Limits,
        label: str,
        under_lock: Callable[[Callable[[], None]], None],
    ) -> None:
        """label names the model in the log. under_lock does what it is given while no worker reads limits, and lets the
        workers know. Any worker and the loader call it."""
        self._session = session
        self._direct = direct
        self._runnable = runnable
        self._label = label
        self._under_lock = under_lock
        self._tuning = ffi.new("Tuning *")
        self.limits = Limits(1)
        self.tuner: Tuner | None = None  # with BATCHSIZE auto
        self.proven = False
        self.is_fixed = False  # it has failed for one op where only batches of BATCHSIZE rows are wanted
        self.rows_seen = 0  # of the latest run whose outputs had as many rows as its inputs
        self._set(limits)
        self._limit_direct(0)

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        outputs = self._session.run(inputs)
        if not self.proven and self.is_on:
            self._learn(inputs, outputs)
        return outputs

    def _learn(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        rows = inputs[0].shape[0] if inputs and inputs[0].ndim else 0
        if not rows or any(array.ndim == 0 or array.shape[0] != rows for array in inputs):
            return
        odd = _odd_output(outputs, rows)
        if odd is not None:
            self.disable(f"the shape of output {odd[0]} is {list(odd[1].shape)} for a batch of {rows}")
            return
        if self.rows_seen and self.rows_seen != rows:
            self.prove()
        elif not self.proven:  # another worker may have just proven it
            self._limit_direct(rows)
        self.rows_seen = rows

    def prove(self) -> None:
        self.proven = True
        self._limit_direct(lib.ANY_ROWS)

    def _limit_direct(self, rows: int) -> None:
        if self._direct is not None:
            self._direct.limit_to(rows)

    def disable(self, reason: str) -> None:
        """Ends batching for this model."""
        if self.is_on:
            self._limit_direct(lib.ANY_ROWS)
            text = f"{self._label} runs without batches from now on: {reason}"
            lib.bridge_log(b"warning", text.encode(errors="replace"))
            self._under_lock(lambda: self._set(Limits(1)))

    @property
    def is_on(self) -> bool:
        return self.limits.batchsize > 1 or self.limits.is_tuned

    def change(self, new: Limits) -> None:
        """Also begins batching anew where it was disabled."""
        self._limit_direct(lib.ANY_ROWS if self.proven or new.batchsize == 1 else self.rows_seen)
        self._under_lock(lambda: self._set(new))

    def _set(self, new: Limits) -> None:
        is_tuned = new.batchsize == lib.AUTO_BATCHSIZE
        if is_tuned and self.tuner:
            return
        limits = self.limits  # groups of waiting ops have this very object
        limits.batchsize, limits.minbatchsize = new.batchsize, new.minbatchsize
        limits.minbatchtimeout = new.minbatchtimeout
        limits.since = limits.held_from = limits.held_until = limits.trial = 0
        limits.held_priority = PRIORITIES - 1
        limits.sizes = []
        limits.is_tuned = is_tuned
        self.tuner = Tuner(limits, lib.AUTO_ROWS) if is_tuned else None
        self._runnable.alone = 0 if self.is_on else FOR_EVER

    def forget(self) -> None:
        """C is about to free the model. A worker that has just answered its last client may still be in here."""

        def leave() -> None:
            self.tuner, self._runnable = None, ffi.new("Runnable *")

        self._under_lock(leave)

    def failed(self, tuner: Tuner, rows: int) -> None:
        """As Tuner.failed."""
        self._under_lock(lambda: tuner.failed(rows) if tuner is self.tuner else None)

    # ---- BATCHSIZE auto; the caller holds the batcher's lock ----

    def ran(self, tuner: Tuner, batch: Batch, succeeded: bool) -> None:
        if tuner is not self.tuner:
            return
        if succeeded:
            tuner.ran(batch)
            tuner.look(batch, lib.bridge_calls(self._runnable), self._runnable.alone)
        else:
            tuner.end_wait()

    def plan(self, waiting: int) -> None:
        if self.tuner:
            self.tuner.plan(waiting)

    def begin(self, tuner: Tuner, op: Op) -> None:
        """Before a run. Gives C, with an op of it, what AI.INFO tells of the tuner."""
        rows = 1 if tuner.runs_alone else tuner.limits.batchsize
        if tuner.runs % TOLD_EVERY == 0 or tuner.alone or rows != self._tuning.rows:
            tuning = self._tuning
            tuning.rows, tuning.wait = rows, tuner.wait
            tuning.rates, tuning.costs = tuner.rates, tuner.costs()
            op.tuning = tuning
        if tuner.alone:
            self._runnable.alone, tuner.alone = tuner.alone, 0


class Entry(Protocol):
    """A compiled model or script in the loader's table."""

    duration: int  # ns, of its latest run in Python
    direct: DirectRunner | None

    def execute(self, op: Op) -> bool:
        """Executes a begun op. Returns False or raises where it failed. Keeps no reference to the op either way."""
        ...


class ModelEntry:
    __slots__ = (
        "_run",
        "batching",
        "direct",
        "duration",
        "is_stateful",
        "least",
        "most",
        "noutputs",
        "outputs",
        "ports",
        "session",
    )

    def __init__(self, session: Session, batching: Batching | None, direct: DirectRunner | None) -> None:
        outputs = session.outputs
        self.session = session
        self._run = session.run if batching is None else batching.run
        self.ports = ports_of(session)[0]  # of the inputs
        self.batching = batching
        self.is_stateful: bool = getattr(session, "is_stateful", False)
        self.direct = direct
        self.outputs: Sequence[str] = outputs or ()
        self.least = least_inputs(session)
        self.most = sys.maxsize if session.inputs is None else len(session.inputs)
        self.noutputs = -1 if outputs is None else len(outputs)
        self.duration = 0

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        try:
            return self._run(inputs)
        except Exception as error:
            better = explained(error, self.ports, inputs)
            if better is error:  # an error that is its own cause would keep the inputs until the next collection
                raise
            raise better from error

    def execute(self, op: Op) -> bool:
        ninputs, noutputs = op.ninputs, op.noutputs
        if not self.least <= ninputs <= self.most:
            lib.bridge_fail(op, INPUTS_MISMATCH)
            return False
        if noutputs != self.noutputs and self.noutputs >= 0:
            lib.bridge_fail(op, OUTPUTS_MISMATCH)
            return False
        splits = self.duration > lib.SPLIT_NS
        begin, ended = perf_counter_ns(), 0
        try:
            tensors = op.inputs
            inputs = [as_array(tensors[0])] if ninputs == 1 else [as_array(tensors[index]) for index in range(ninputs)]
            called = perf_counter_ns() if splits else 0
            outputs = self.run(inputs)
            ended = perf_counter_ns() if splits else 0
            if len(outputs) < noutputs:
                lib.bridge_fail(op, OUTPUTS_MISMATCH)
                return False
            names = self.outputs
            for index in range(noutputs):
                if not set_output(op, index, outputs[index], names[index] if names else ""):
                    return False
            return True
        finally:
            self.duration = duration = perf_counter_ns() - begin
            op.duration = duration // 1000
            if ended:
                op.input_ns, op.output_ns = called - begin, begin + duration - ended

    def may_batch(self, ops: Sequence[Op]) -> bool:
        """Whether to try these ops as one batch. Until the model is proven, only a batch with a new number of rows is
        tried: no other would prove anything. A single op is one that C can run."""
        batching = self.batching
        if batching is None or not batching.is_on:
            return False
        if len(ops) == 1:
            return batching.proven and self.direct is not None
        if batching.proven:
            return True
        rows, limits = sum([op.rows for op in ops]), batching.limits
        if rows == limits.batchsize == limits.minbatchsize and batching.tuner is None:
            if not batching.is_fixed and batching.rows_seen in (0, rows) and not self.is_stateful:
                self._try_alone(ops[0])
            if batching.is_fixed:
                return True
        return batching.rows_seen > 0 and batching.rows_seen != rows and batching.is_on

    def _try_alone(self, op: Op) -> None:
        """Finds out whether the model runs with fewer rows than a full batch has."""
        assert self.batching is not None
        try:
            self.run([as_array(op.inputs[index]) for index in range(op.ninputs)])
        except Exception:
            self.batching.is_fixed = True

    def execute_as_one(self, c_ops: CData, ops: Sequence[Op]) -> str | None:
        """Executes begun ops as one. None: they now have outputs. A text: they must be executed one by one. It says why
        the model may be unfit for batches, and is empty if the model is not the reason. Raises the error of all."""
        ninputs, noutputs = ops[0].ninputs, ops[0].noutputs
        if not self.least <= ninputs <= self.most or self.noutputs not in (noutputs, -1):
            return ""
        if len({op.noutputs for op in ops}) > 1:
            return ""
        begin = perf_counter_ns()
        try:
            if self.direct is not None and (ran := self.direct.run_batch(c_ops, ops)):
                self.duration = perf_counter_ns() - begin
                return None if ran > 0 else ""
            inputs = self._gather(c_ops, ops)
            if inputs is None:
                return ""
            called = perf_counter_ns()
            outputs = self.run(inputs)
            ended = perf_counter_ns()
            _check(outputs, noutputs, sum([op.rows for op in ops]))
        except BaseException as failure:
            if self.batching is None or not self.batching.proven:
                if self.batching is not None:
                    self.batching.is_fixed = False
                return one_line(failure)
            tuner, rows = self.batching.tuner, sum([op.rows for op in ops])
            if tuner and not tuner.has_run(rows):
                self.batching.failed(tuner, rows)
                return ""
            self._note_duration(begin, c_ops, len(ops))
            raise
        if self.batching is not None and self.batching.is_fixed:
            self.batching.prove()
        names = self.outputs
        for index in range(noutputs):
            scatter(c_ops, ops, index, outputs[index], names[index] if names else "")
        ops[0].input_ns, ops[0].output_ns = called - begin, perf_counter_ns() - ended
        self._note_duration(begin, c_ops, len(ops))
        return None

    def _note_duration(self, begin: int, c_ops: CData, count: int) -> None:
        self.duration = duration = perf_counter_ns() - begin
        lib.bridge_batch_ran(c_ops, count, duration // 1000)

    def _gather(self, c_ops: CData, ops: Sequence[Op]) -> list[Array] | None:
        """The inputs of a batch. None where the ops do not fit together."""
        rows = sum([op.rows for op in ops])
        inputs = []
        for index in range(ops[0].ninputs):
            gathered = gather(c_ops, ops, index, rows)
            if gathered is None:
                return None
            inputs.append(gathered)
        return inputs


def _check(outputs: Sequence[Array], noutputs: int, rows: int) -> None:
    if len(outputs) < noutputs:
        raise RuntimeError(OUTPUTS_MISMATCH.decode())
    if _odd_output(outputs[:noutputs], rows) is not None:
        raise RuntimeError("Model did not generate the expected batch size")


def _odd_output(outputs: Sequence[Array], rows: int) -> tuple[int, Array] | None:
    """Index and array of the first output whose 0th dimension is not the batch."""
    for index, array in enumerate(outputs):
        if array.ndim == 0 or array.shape[0] != rows:
            return index, array
    return None


class MissingEntry:
    """Stands in for an entry that is not in the table."""

    duration = 0
    direct: DirectRunner | None = None

    def execute(self, op: Op) -> bool:
        lib.bridge_fail(op, b"the model or script is not loaded")
        return False


def execute_batch(c_ops: CData, ops: Sequence[Op], entry: Entry, finish: Callable[[CData, int], None]) -> bool:
    """Executes the begun ops of a batch, as one where that is possible, else one by one. Returns whether there was one
    run, which has succeeded.

    c_ops is the same ops as a C array. Every op is given to finish, which must not raise."""
    model = entry if isinstance(entry, ModelEntry) else None
    doubt: str | None = None  # why they are executed one by one
    succeeded = True
    done = 0
    try:
        while done < len(ops):
            if doubt is None and model is not None and model.may_batch(rest := ops[done:]):
                doubt = model.execute_as_one(c_ops + done, rest)
                if doubt is None:
                    break
                succeeded = True
            op = ops[done]
            # Many ops may have run since this one was begun.
            succeeded = bool(lib.bridge_is_awaited(op)) and _execute(op, entry) and succeeded
            done += 1
            finish(c_ops + (done - 1), 1)
        if doubt and succeeded and model is not None and model.batching is not None:
            model.batching.disable(doubt)
    except BaseException as error:
        for op in ops[done:]:
            fail(op, error)
        succeeded = False
    is_one_run = done == 0 or len(ops) == 1
    if done < len(ops):
        finish(c_ops + done, len(ops) - done)
    return is_one_run and succeeded


def _execute(op: Op, entry: Entry) -> bool:
    try:
        return entry.execute(op)
    except BaseException as error:
        fail(op, error)
        return False
