"""BATCHSIZE auto as pure logic: clients that send again when they are answered, runs that take made-up times.

What it reaches is compared with fixed settings under the same clients.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from random import Random

import pytest

from redisai.batcher import Batcher, Limits
from redisai.tuner import REFRESH, SAMPLES, UNSEEN, Batch, Tuner

US, MS, SECOND = 1_000, 1_000_000, 1_000_000_000
START = SECOND
MAX_ROWS = 256

Times = Callable[[int], int]


def overhead(rows: int) -> int:
    """As on an accelerator, or where weights are read from memory: more rows cost little."""
    return 2 * MS + rows * 20 * US


def mixed(rows: int) -> int:
    return 300 * US + rows * 60 * US


def compute(rows: int) -> int:
    return rows * MS


def tiny(rows: int) -> int:
    return 10 * US + rows * US


def cliff(rows: int) -> int:
    """From 17 rows on they do not fit into a cache."""
    return 2 * MS + rows * (20 * US if rows <= 16 else 500 * US)


def barrier(rows: int) -> int:
    """One row goes another way in the library than several do."""
    return 4 * MS if rows == 1 else 16 * MS + rows * 20 * US


@dataclass(eq=False, slots=True)
class Op:
    arrival: int
    client: int
    rows: int = 1
    id: int = 1
    batch_key: int = 1
    priority: int = 2


@dataclass(slots=True)
class Outcome:
    rate: float  # rows per second, in the second half
    waits: list[int]  # ns from arrival to answer
    tuner: Tuner | None
    largest: int


def serve(
    limits: Limits, times: Times, clients: int, pause: Callable[[int], int], ms: int, is_tuned: bool, own: int = 0
) -> Outcome:
    """One worker, and clients that send again pause(client) after an answer. own: ns that each batch takes beside the
    run, which the tuner is not told."""
    tuner = Tuner(limits, MAX_ROWS) if is_tuned else None
    batcher: Batcher[Op] = Batcher(lambda op: limits, lambda ops: ops)
    coming = [(START + pause(client), client) for client in range(clients)]
    heapq.heapify(coming)
    now, end, done, largest = START, START + ms * MS, 0, 0
    half = START + ms * MS // 2
    waits: list[int] = []
    ended, left, ran, latest = False, 0, 0, 0

    def arrive() -> tuple[list[Op], list[Op]]:
        """Those that run alone, and the others."""
        nonlocal left
        plain: list[Op] = []
        came: list[Op] = []
        while coming and coming[0][0] <= now:
            at, client = heapq.heappop(coming)
            (plain if left > 0 else came).append(Op(at, client))
            left -= 1
        return plain, came

    def answer(ops: list[Op], begin: int) -> None:
        nonlocal done, ran
        ran += len(ops)
        for op in ops:
            heapq.heappush(coming, (now + pause(op.client), op.client))
        if begin > half:
            done += len(ops)
            waits.extend(now - op.arrival for op in ops)

    while now < end:
        plain, came = arrive()
        for op in plain:
            begin = now
            now += times(1)
            answer([op], begin)
        if plain and not came:
            continue
        if tuner and ended:
            tuner.plan(batcher.rows((1, 1)) + sum(op.arrival < limits.since for op in came))
            ended = False
        batcher.add(came)
        batch = batcher.take(now)
        if not batch:
            deadline = batcher.deadline()
            later = [at for at in (coming[0][0] if coming else 0, deadline) if at]
            now = max(now, min(later))
            continue
        now += own
        judged = tuner is not None and not tuner.leaves_out(len(batch))
        if tuner and judged and tuner.alone:
            left, tuner.alone = tuner.alone, 0
        begin, rows = now, len(batch)
        is_lone = rows == 1 and batch[0].arrival >= latest
        now += times(rows)
        answer(batch, begin)
        if begin > half:
            largest = max(largest, rows)
        latest = now
        if tuner and judged:
            told = Batch(rows, rows, 2, is_lone, begin, now)
            tuner.ran(told)
            tuner.look(told, ran, left)
            ended = True
    return Outcome(done * SECOND / (now - half), sorted(waits), tuner, largest)


def tuned(times: Times, clients: int, pause: Callable[[int], int], ms: int) -> Outcome:
    return serve(Limits(1), times, clients, pause, ms, True)


def best_rate(times: Times, clients: int, ms: int) -> float:
    """Of many settings, no batches among them."""
    settings = [Limits(size) for size in (1, 16, 256)]
    settings += [Limits(256, size, wait) for size, wait in product({clients // 2, clients}, [MS, 10 * MS]) if size > 1]
    return max(serve(limits, times, clients, soon, ms, False).rate for limits in settings)


def soon(client: int) -> int:
    return (60 + 7 * (client % 40)) * US


@pytest.mark.parametrize("clients", [1, 2, 5, 24, 100])
@pytest.mark.parametrize("times", [overhead, mixed, compute, tiny, cliff, barrier], ids=lambda times: times.__name__)
def test_the_rate_is_nearly_that_of_the_best_setting(times: Times, clients: int) -> None:
    """Looks take their share of quick models, and time until they are rare."""
    ms, longer, share = (60, 6, 0.85) if times is tiny else (700, 4, 0.9) if times is mixed else (1500, 1, 0.9)
    assert tuned(times, clients, soon, longer * ms).rate >= share * best_rate(times, clients, ms)


@pytest.mark.parametrize(("clients", "own"), [(1, 20 * US), (4, 20 * US), (16, 20 * US), (16, 200 * US)])
def test_where_batches_take_longer_than_they_save_ops_run_alone(clients: int, own: int) -> None:
    plain = serve(Limits(1), tiny, clients, soon, 100, False).rate
    outcome = serve(Limits(1), tiny, clients, soon, 400, True, own)
    assert outcome.tuner and outcome.tuner.runs_alone == (own > 100 * US or clients < 16)
    assert outcome.rate >= 0.9 * plain


@pytest.mark.parametrize(("times", "size"), [(overhead, 128), (cliff, 16), (compute, 2)], ids=str)
def test_sizes(times: Times, size: int) -> None:
    """compute: a cost that is equal but for rounding may make it 2."""
    outcome = tuned(times, 100, soon, 1000)
    assert outcome.tuner
    assert outcome.tuner.limits.batchsize <= size
    assert (outcome.tuner.limits.batchsize == size) or times is compute
    assert outcome.tuner.costs()[1] == times(2) // 2


@pytest.mark.parametrize("times", [overhead, mixed, compute, cliff], ids=lambda times: times.__name__)
def test_few_clients_wait_no_longer_than_without_batches(times: Times) -> None:
    """They send at any time, so that a wait for others is in vain."""
    random = Random(1)

    def seldom(client: int) -> int:
        return int(random.expovariate(0.005) * times(1))

    here = tuned(times, 10, seldom, 60_000).waits
    random.seed(1)
    there = serve(Limits(1), times, 10, seldom, 60_000, False).waits
    for share in (0.5, 0.99):
        assert here[int(len(here) * share)] <= 1.15 * there[int(len(there) * share)]


def feed(tuner: Tuner, runs: int, rows: int, ns: int) -> None:
    for _ in range(runs):
        begin = tuner.limits.since + MS
        tuner.ran(Batch(rows, rows, 2, False, begin, begin + ns))


def test_a_change_is_followed() -> None:
    """What was a gain is none any more."""
    limits = Limits(1)
    tuner = Tuner(limits, MAX_ROWS)
    for size in (1, 2, 4, 8):
        feed(tuner, SAMPLES, size, MS)
    assert (limits.batchsize, limits.trial) == (8, 16)
    feed(tuner, 60, 8, 20 * MS)
    assert limits.batchsize == 4


def test_a_slow_first_run_is_forgotten() -> None:
    limits = Limits(1)
    tuner = Tuner(limits, MAX_ROWS)
    feed(tuner, SAMPLES, 1, MS)
    feed(tuner, 1, 2, SECOND)
    feed(tuner, SAMPLES - 1, 2, MS)
    assert limits.batchsize == 2


def test_what_is_no_gain_is_tried_seldom() -> None:
    limits = Limits(1)
    tuner = Tuner(limits, MAX_ROWS)
    for size in (1, 2, 4, 8):
        feed(tuner, SAMPLES, size, 2 * size * MS)
    assert (limits.batchsize, limits.trial) == (1, 0)
    feed(tuner, 2 * REFRESH, 1, 2 * MS)
    assert (limits.batchsize, limits.trial, limits.most(1), limits.most(2)) == (1, 2, 1, 2)
    for size in (2, 4, 8):
        assert limits.trial == size
        feed(tuner, 1, size, 2 * size * MS)
    assert limits.trial == 0


def test_a_size_that_fails_is_not_tried_again() -> None:
    limits = Limits(1)
    tuner = Tuner(limits, MAX_ROWS)
    for size in (1, 2, 4):
        feed(tuner, SAMPLES, size, MS)
    assert limits.trial == 8 and not tuner.has_run(8) and tuner.has_run(3)
    tuner.failed(8)
    feed(tuner, 10 * REFRESH, 4, MS)
    assert (limits.batchsize, limits.trial) == (4, 0)


def test_few_rows_run_as_is_best_for_them() -> None:
    """Two rows cost more than one, and eight cost least."""
    limits = Limits(1)
    tuner = Tuner(limits, MAX_ROWS)
    for size, ms in ((1, 4), (2, 18), (4, 18), (8, 18)):
        feed(tuner, SAMPLES, size, ms * MS)
    assert limits.batchsize == 8
    assert [limits.most(waiting) for waiting in (1, 2, 3, 4, 5, 8)] == [1, 1, 1, 1, 8, 8]
    feed(tuner, 4 * REFRESH, 8, 18 * MS)
    assert limits.most(2) == 2, "it is looked at again"


def judge(tuner: Tuner, rows: int, waiting: int, ns: int = 30 * US) -> None:
    begin = tuner.limits.since + 50 * US
    batch = Batch(rows, rows, 2, False, begin, begin + ns)
    tuner.ran(batch)
    tuner.look(batch, 0, 0)
    tuner.plan(waiting)


def test_quick_batches_wait_for_half_of_the_rows() -> None:
    limits = Limits(1)
    tuner = Tuner(limits, MAX_ROWS)
    for size in (1, 2, 4, 8, 16, 32):
        feed(tuner, SAMPLES, size, 30 * US)
    for _ in range(30):
        judge(tuner, 20, 12)
    assert (limits.minbatchsize, limits.due(SECOND, 2), limits.due(SECOND, 3)) == (16, SECOND + MS, SECOND)
    judge(tuner, 2, 0)
    assert limits.minbatchsize <= 9, "many clients have left"


def test_few_of_many_quick_batches_are_judged() -> None:
    limits = Limits(1)
    tuner = Tuner(limits, MAX_ROWS)
    for size in (1, 2, 4, 8, 16, 32, 64, 128):
        feed(tuner, SAMPLES, size, 30 * US)
    assert not tuner.leaves_out(20)
    judge(tuner, 20, 12)
    assert [tuner.leaves_out(20) for _ in range(UNSEEN + 1)] == [True] * UNSEEN + [False]
    judge(tuner, 20, 12)
    assert not tuner.leaves_out(1), "it may be lone"
    limits.trial = 32
    assert not tuner.leaves_out(20), "this size is tried"
    limits.trial, tuner.alone = 0, 100
    assert not tuner.leaves_out(20), "a look goes on"
    tuner.alone = 0
    for size in (1, 2):
        feed(tuner, 40, size, MS)
    judge(tuner, 20, 12)
    assert not tuner.leaves_out(20), "a slow model"


def test_a_size_of_ops_of_many_rows_is_judged_while_it_is_tried() -> None:
    limits = Limits(1)
    tuner = Tuner(limits, MAX_ROWS)
    for size in (1, 2, 4, 8, 16, 32, 64):
        feed(tuner, SAMPLES, size, 30 * US)
    for _ in range(40):
        batch = Batch(8, 64, 2, False, tuner.limits.since, tuner.limits.since + 30 * US)
        tuner.ran(batch)
    tuner.plan(64)
    assert limits.trial == 128
    assert not tuner.leaves_out(10), "they have about 80 rows"
    assert tuner.leaves_out(6)


def test_an_op_that_came_before_it_may_have_more_rows() -> None:
    """After a plan to wait for 8 rows."""
    limits = Limits(1)
    tuner = Tuner(limits, MAX_ROWS)
    for size in (1, 2, 4, 8):
        feed(tuner, SAMPLES, size, 2 * MS)
    tuner.plan(4)
    assert limits.minbatchsize and not tuner.has_run(1000)
    feed(tuner, 1, 1000, 2 * MS)
    assert tuner.has_run(1000) and tuner.runs == 4 * SAMPLES + 1


def test_no_look_is_lost_where_several_workers_end_at_once() -> None:
    """What is to run alone has not been handed out yet when the batch of another worker ends."""
    tuner = Tuner(Limits(1), MAX_ROWS)
    for size in (1, 2, 4, 8, 16):
        feed(tuner, SAMPLES, size, 30 * US)
    now, done = SECOND, 0
    while not tuner.alone:
        now, done = now + MS, done + 16
        tuner.look(Batch(16, 16, 2, False, now - MS, now), done, 0)
    alone = tuner.alone
    tuner.look(Batch(16, 16, 2, False, now - MS, now), done + 16, 0)
    assert tuner.alone == alone


def test_one_lone_client_does_not_end_what_was_found_for_many() -> None:
    """Its ops run alone; once there are others again, no new look is needed."""
    tuner = Tuner(Limits(1), MAX_ROWS)
    for size in (1, 2, 4, 8, 16):
        feed(tuner, SAMPLES, size, 30 * US)
    now, done, alone = SECOND, 0, 0

    def run(ops: int) -> bool:
        """Each batch serves ten times as many ops as the same time without batches. Returns whether ops run alone."""
        nonlocal now, done, alone
        now += MS
        done += 1 if alone else 10 * ops
        tuner.look(Batch(ops, ops, 2, ops == 1, now - MS, now), done, alone)
        alone = max(0, alone - 1) if alone else min(tuner.alone, 20)
        tuner.alone = 0
        return alone > 0

    while not tuner.rates[1]:
        run(16)
    found = list(tuner.rates)
    assert found[0] > 2 * found[1]
    while not run(1):
        pass
    while run(1):
        pass
    assert tuner.runs_alone
    assert [run(16) for _ in range(8)] == [False] * 8 and not tuner.runs_alone
    assert tuner.rates == found


def test_what_was_found_for_many_clients_ends_with_them() -> None:
    """For 40 clients batches are better, for 4 they are not. That is seen soon after the others have left."""
    answers = 0

    def pause(client: int) -> int:
        nonlocal answers
        answers += 1
        return soon(client) if answers < 30_000 or client < 4 else 100 * SECOND

    plain = serve(Limits(1), tiny, 4, soon, 100, False).rate
    outcome = serve(Limits(1), tiny, 40, pause, 800, True, 20 * US)
    assert answers > 40_000
    assert outcome.tuner and outcome.tuner.runs_alone
    assert outcome.rate >= 0.9 * plain
