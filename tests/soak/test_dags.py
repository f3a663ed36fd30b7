"""64 clients send random DAGs to four queues: the short form of scripts/dags."""

from __future__ import annotations

import time

import pytest

from testkit.random_dags import Runnable
from tests.soak.dags import CLIENTS, soak


@pytest.mark.parametrize("threads_per_queue", [1, 3])
def test_random_dags_on_four_queues(threads_per_queue: int) -> None:
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    result = soak(5, seed, threads_per_queue)
    assert result.check() == []
    assert result.dags > CLIENTS and result.failures


def test_a_wrong_reply_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Runnable.call

    def other_order(self: Runnable, inputs: list[str], outputs: list[str]) -> object:
        return call(self, inputs[::-1], outputs)

    monkeypatch.setattr(Runnable, "call", other_order)
    result = soak(1, seed=1)
    assert "client" in result.check()[0]
