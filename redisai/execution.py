"""Runs ops: one alone, or several as one batch. Workers enter.

An Entry is a model in the table of sessions. What a model with BATCHSIZE has shown of being fit for batches is kept
there too; workers write it without a lock, as it makes no difference who of them is first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from _redisai_bridge import lib

from .batcher import Limits
from .protocol import Session, one_line
from .tensors import as_array, fail, gather, scatter, set_output

if TYPE_CHECKING:
    from _redisai_bridge import CData, Op

    from .direct import DirectRunner
    from .protocol import Array

INPUTS_MISMATCH = b"Number of keys given as INPUTS here does not match model definition"
OUTPUTS_MISMATCH = b"Number of keys given as OUTPUTS here does not match model definition"


class Batching:
    """Runs of a model that has BATCHSIZE (Session of protocol.py), and what they tell.

    A model with a fixed batch cannot be batched, nor one whose outputs do not have the batch as their 0th dimension,
    and only its runs show it. So batches are tried with care, until runs with different rows have gone right.
    """

    __slots__ = ("_label", "_refused", "_session", "limits", "proven", "seen")

    def __init__(self, session: Session, limits: Limits, label: str, refused: Callable[[], None]) -> None:
        """label is for the log. refused is called, by any worker, when the limits have changed."""
        self._session = session
        self._label = label
        self._refused = refused
        self.limits = limits
        self.proven = False
        self.seen = 0  # rows of a run whose outputs had as many

    def run(self, inputs: Sequence[Array]) -> Sequence[Array | None]:
        outputs = self._session.run(inputs)
        if not self.proven and self.limits.batchsize > 1:
            self._learn(inputs, outputs)
        return outputs

    def _learn(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> None:
        rows = inputs[0].shape[0] if inputs and inputs[0].ndim else 0
        if not rows or any(array.ndim == 0 or array.shape[0] != rows for array in inputs):
            return
        odd = _odd_output(outputs, rows)
        if odd is not None:
            self.refuse(f"the shape of output {odd[0]} is {list(odd[1].shape)} for a batch of {rows}")
            return
        if self.seen and self.seen != rows:
            self.proven = True
        self.seen = rows

    def refuse(self, reason: str) -> None:
        """No batches from now on."""
        limits = self.limits
        if limits.batchsize > 1:
            limits.batchsize, limits.minbatchsize, limits.minbatchtimeout = 1, 0, 0
            text = f"{self._label} is run without batches: {reason}"
            lib.bridge_log(b"warning", text.encode(errors="replace"))
            self._refused()


class Executable(Protocol):
    """What is in the table of sessions."""

    @property
    def duration(self) -> int:
        """ns, of its latest run."""
        ...

    def execute(self, op: Op) -> bool:
        """Runs a begun op. False or raised where it failed; nothing of the op is held any more either way."""
        ...


class Entry:
    """A model, with what the workers need of it at hand."""

    __slots__ = ("batching", "direct", "duration", "ninputs", "noutputs", "outputs", "run")

    def __init__(self, session: Session, batching: Batching | None, direct: DirectRunner | None) -> None:
        inputs, outputs = session.inputs, session.outputs
        self.run = session.run if batching is None else batching.run
        self.batching = batching
        self.direct = direct
        self.outputs: Sequence[str] = outputs or ()
        self.ninputs = -1 if inputs is None else len(inputs)
        self.noutputs = -1 if outputs is None else len(outputs)
        self.duration = 0

    def execute(self, op: Op) -> bool:
        ninputs, noutputs = op.ninputs, op.noutputs
        if ninputs != self.ninputs and self.ninputs >= 0:
            lib.bridge_fail(op, INPUTS_MISMATCH)
            return False
        if noutputs != self.noutputs and self.noutputs >= 0:
            lib.bridge_fail(op, OUTPUTS_MISMATCH)
            return False
        begin = perf_counter_ns()
        try:
            tensors = op.inputs
            inputs = [as_array(tensors[0])] if ninputs == 1 else [as_array(tensors[index]) for index in range(ninputs)]
            outputs = self.run(inputs)
            if len(outputs) < noutputs:
                lib.bridge_fail(op, OUTPUTS_MISMATCH)
                return False
            names = self.outputs
            for index in range(noutputs):
                array = outputs[index]
                if array is not None and not set_output(op, index, array, names[index] if names else ""):
                    return False
            return True
        finally:
            self.duration = duration = perf_counter_ns() - begin
            op.duration = duration // 1000

    def run_direct(self, ops: CData, count: int, until: int) -> int:
        """Runs the first of count begun ops that need no Python, until that moment (ns). How many are done."""
        direct, batching = self.direct, self.batching
        # What does not run in Python tells nothing of batches.
        if direct is None or not (batching is None or batching.proven or batching.seen == ops[0].rows):
            return 0
        begin = perf_counter_ns()
        done = direct.run(ops, count, until)
        if done:
            self.duration = (perf_counter_ns() - begin) // done
        return done

    def may_batch(self, ops: Sequence[Op]) -> bool:
        """Until a model is known to be fit for batches, one is run only where it tells something: with other rows."""
        batching = self.batching
        if len(ops) == 1 or batching is None or batching.limits.batchsize == 1:
            return False
        return batching.proven or (batching.seen > 0 and batching.seen != sum([op.rows for op in ops]))

    def execute_batch(self, array: CData, ops: Sequence[Op]) -> str | None:
        """Runs begun ops as one. None: they have outputs or errors now. Else they must be run one by one, and the text
        is what speaks against the model; empty: nothing does."""
        ninputs, noutputs = ops[0].ninputs, ops[0].noutputs
        if self.ninputs not in (ninputs, -1) or self.noutputs not in (noutputs, -1):
            return ""
        if len({op.noutputs for op in ops}) > 1:
            return ""
        begin = perf_counter_ns()
        rows = sum([op.rows for op in ops])
        inputs = []
        for index in range(ninputs):
            gathered = gather(array, ops, index, rows)
            if gathered is None:
                return ""
            inputs.append(gathered)

        try:
            outputs = self.run(inputs)
            _check(outputs, noutputs, rows)
        except BaseException as failure:
            if self.batching is None or not self.batching.proven:
                return one_line(failure)
            for op in ops:
                fail(op, failure)
        else:
            names = self.outputs
            for index in range(noutputs):
                output = outputs[index]
                if output is not None:
                    scatter(array, ops, index, output, names[index] if names else "")
        self.duration = duration = perf_counter_ns() - begin
        lib.bridge_batch_ran(array, len(ops), duration // 1000)
        return None


def _check(outputs: Sequence[Array | None], noutputs: int, rows: int) -> None:
    if len(outputs) < noutputs:
        raise RuntimeError(OUTPUTS_MISMATCH.decode())
    if _odd_output(outputs[:noutputs], rows) is not None:
        raise RuntimeError("Model did not generate the expected batch size")


def _odd_output(outputs: Sequence[Array | None], rows: int) -> tuple[int, Array] | None:
    """The first output, and its index, whose 0th dimension is not the batch."""
    for index, array in enumerate(outputs):
        if array is not None and (array.ndim == 0 or array.shape[0] != rows):
            return index, array
    return None


class Missing:
    """Stands in the place of what is not in the table."""

    duration = 0

    def execute(self, op: Op) -> bool:
        lib.bridge_fail(op, b"the model or script is not loaded")
        return False


def execute(op: Op, entry: Executable) -> bool:
    """One begun op. False where it failed. Nothing is raised, and nothing of the op held when this returns."""
    try:
        return entry.execute(op)
    except BaseException as error:
        fail(op, error)
        return False


def execute_lane(array: CData, ops: Sequence[Op], entry: Executable, finish: Callable[[CData, int], None]) -> None:
    """Runs begun ops of one lane, as one where that can be done; array holds them for C. finish gets them all, and does
    not raise."""
    model = entry if isinstance(entry, Entry) else None
    apart: str | None = None  # why they are run one by one
    succeeded = True
    done = 0
    try:
        while done < len(ops):
            if apart is None and model is not None and model.may_batch(rest := ops[done:]):
                apart = model.execute_batch(array + done, rest)
                if apart is None:
                    break
                succeeded = True
            op = ops[done]
            if lib.bridge_is_awaited(op):  # many ops may have run since they were begun
                succeeded = execute(op, entry) and succeeded
            done += 1
            finish(array + (done - 1), 1)
        if apart and succeeded and model is not None and model.batching is not None:
            model.batching.refuse(apart)
    except BaseException as error:
        for op in ops[done:]:
            fail(op, error)
    if done < len(ops):
        finish(array + done, len(ops) - done)
