"""What workers and the loader tell the tuner of a model, and when."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import pytest
from _redisai_bridge import ffi, lib

from redisai.batcher import Limits
from redisai.execution import Batching
from redisai.tuner import Batch
from testkit.batches import witness
from tests.unit.loading import load

MS = 1_000_000


class Guarded(Batching):
    """With a lock of its own."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.runnable = ffi.new("Runnable *")
        auto = Limits(lib.AUTO_BATCHSIZE)
        super().__init__(self.runnable, load("ONNX", witness("ONNX").blob), None, auto, "model", self.under_lock)

    def under_lock(self, change: Callable[[], None]) -> None:
        with self.lock:
            change()


@pytest.fixture
def batching() -> Guarded:
    return Guarded()


def test_after_a_failure_nothing_waits(batching: Guarded) -> None:
    """Else requests that always fail would wait for a crowd that has left, again and again."""
    tuner = batching.tuner
    assert tuner
    batching.limits.minbatchsize = 16
    batching.ran(tuner, Batch(2, 2, 2, False, MS, 2 * MS), succeeded=False)
    assert batching.limits.minbatchsize == 0


def test_a_failure_changes_no_limits_that_were_set_meanwhile(batching: Guarded) -> None:
    tuner = batching.tuner
    assert tuner
    batching.change(Limits(4, 2, MS))
    batching.failed(tuner, 8)
    batching.ran(tuner, Batch(2, 2, 2, False, MS, 2 * MS), succeeded=False)
    assert (batching.limits.batchsize, batching.limits.minbatchsize, batching.limits.trial) == (4, 2, 0)


def test_a_size_that_fails_is_noted_under_the_lock(batching: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = batching.tuner
    assert tuner
    held: list[bool] = []
    monkeypatch.setattr(tuner, "failed", lambda rows: held.append(batching.lock.locked()))
    batching.failed(tuner, 8)
    assert held == [True]


def test_a_deleted_model_is_not_touched(batching: Guarded) -> None:
    """C frees it as soon as its last request is answered. The worker that has run that may still have work to do."""
    tuner = batching.tuner
    assert tuner
    batching.runnable.alone = 7
    batching.forget()
    batching.ran(tuner, Batch(2, 2, 2, False, MS, 2 * MS), succeeded=True)
    batching.change(Limits(1))
    assert (tuner.runs, batching.runnable.alone) == (0, 7)
