"""Which ops share a batch, and when: the batcher without a bridge, at times that the tests make up."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from redisai.batcher import Batcher, Limits

SECOND = 1_000_000_000


@dataclass(eq=False, slots=True)
class Op:
    lane: int
    rows: int = 1
    since: int = 0
    wanted: bool = True
    id: int = 0
    number: int = field(default_factory=count().__next__)


class Lanes:
    """A batcher, whose lanes' limits are given by number, and all that went in and came out."""

    def __init__(self, *limits: Limits) -> None:
        self.limits = limits
        self.swept: list[Op] = []
        self.batcher: Batcher[Op] = Batcher(lambda op: limits[op.lane], self._sweep)

    def _sweep(self, ops: list[Op]) -> list[Op]:
        self.swept += ops
        return [op for op in ops if op.wanted]

    def add(self, *ops: Op) -> list[Op]:
        self.batcher.add(ops)
        return list(ops)

    def take(self, now: int = 0) -> list[Op]:
        return self.batcher.take(now)


def ops(lane: int, *rows: int, since: int = 0) -> list[Op]:
    return [Op(lane, count, since) for count in rows]


def test_a_lane_is_ready_with_its_first_op() -> None:
    lanes = Lanes(Limits(8))
    assert not lanes.batcher.ready and lanes.take() == [] and lanes.batcher.deadline() == 0
    added = lanes.add(*ops(0, 1))
    assert lanes.batcher.ready and lanes.batcher.deadline() == 0
    assert lanes.take() == added
    assert not lanes.batcher.ready and lanes.take() == []


def test_a_batch_closes_before_the_op_that_would_exceed_it() -> None:
    lanes = Lanes(Limits(8))
    added = lanes.add(*ops(0, 3, 3, 3, 1, 4, 1))
    assert [lanes.take(), lanes.take(), lanes.take()] == [added[:2], added[2:5], added[5:]]


def test_an_op_that_is_too_large_goes_alone() -> None:
    lanes = Lanes(Limits(4))
    added = lanes.add(*ops(0, 9, 1, 4, 9))
    assert [lanes.take() for _ in range(4)] == [[op] for op in added]


def test_lanes_of_two_models_do_not_mix_if_they_have_the_same_number() -> None:
    lanes = Lanes(Limits(8))
    added = lanes.add(Op(0, id=1), Op(0, id=2), Op(0, id=1))
    assert [lanes.take(), lanes.take()] == [[added[0], added[2]], [added[1]]]


def test_lanes_do_not_mix_and_the_oldest_comes_first() -> None:
    lanes = Lanes(Limits(8), Limits(8))
    young = lanes.add(Op(0, since=5), Op(0, since=6))
    old = lanes.add(Op(1, since=3), Op(1, since=9))
    assert [lanes.take(), lanes.take()] == [old, young]


def test_what_is_left_of_a_lane_waits_its_turn() -> None:
    lanes = Lanes(Limits(2), Limits(2))
    busy = lanes.add(*(Op(0, since=moment) for moment in (1, 2, 3, 5)))
    other = lanes.add(Op(1, since=4))
    later = lanes.add(Op(1, since=7))
    assert [lanes.take() for _ in range(3)] == [busy[:2], busy[2:], other + later]


def test_a_minimum_is_waited_for() -> None:
    lanes = Lanes(Limits(8, 4))
    added = lanes.add(*ops(0, 1, 2))
    assert lanes.take(now=SECOND) == [] and lanes.batcher.deadline() == 0
    added += lanes.add(*ops(0, 1))
    assert lanes.take() == added


def test_a_minimum_counts_all_that_wait_though_a_batch_cannot_take_them() -> None:
    lanes = Lanes(Limits(8, 8))
    added = lanes.add(*ops(0, 7, 7))
    assert lanes.take() == added[:1]
    assert lanes.take() == []
    added += lanes.add(*ops(0, 1))
    assert lanes.take() == added[1:]


def test_a_time_out_is_that_of_the_oldest() -> None:
    lanes = Lanes(Limits(8, 4, 100))
    added = lanes.add(Op(0, since=50), Op(0, since=20), Op(0, since=60))
    assert lanes.batcher.deadline() == 120
    assert lanes.take(now=119) == []
    assert lanes.take(now=120) == added
    assert lanes.batcher.deadline() == 0


def test_the_timer_of_a_lane_that_filled_up_is_forgotten() -> None:
    lanes = Lanes(Limits(2, 2, 100))
    added = lanes.add(*ops(0, 1, 1, 1))
    assert lanes.take() == added[:2]
    assert lanes.batcher.deadline() == 100
    more = lanes.add(Op(0, since=70))
    assert lanes.take() == [added[2], *more]
    assert lanes.batcher.deadline() == 0 and lanes.take(now=100) == []
    last = lanes.add(Op(0, since=90))
    assert lanes.batcher.deadline() == 190 and lanes.take(now=189) == [] and lanes.take(now=190) == last


def test_timers_of_several_lanes() -> None:
    lanes = Lanes(Limits(8, 4, 100), Limits(8, 4, 10), Limits(8))
    slow, fast = lanes.add(Op(0), Op(1, since=50))
    assert lanes.batcher.deadline() == 60
    now = lanes.add(Op(2, since=55))
    assert lanes.take(now=60) == [fast]  # the older of two that are ready
    assert lanes.take(now=60) == now
    assert lanes.batcher.deadline() == 100
    assert lanes.take(now=100) == [slow]


def test_only_ops_that_somebody_waits_for_count() -> None:
    lanes = Lanes(Limits(8, 3, 100))
    added = lanes.add(Op(0, since=1, wanted=False), Op(0, since=2), Op(0, since=3))
    assert lanes.batcher.ready and lanes.take(now=50) == []
    assert not lanes.batcher.ready and lanes.batcher.deadline() == 102
    added += lanes.add(Op(0, since=4))
    assert lanes.take(now=50) == added[1:]


def test_a_time_out_of_an_op_that_nobody_waits_for_makes_nothing_ready() -> None:
    lanes = Lanes(Limits(8, 3, 100))
    first, second = lanes.add(Op(0, since=10), Op(0, since=40))
    first.wanted = False
    assert lanes.take(now=110) == [] and lanes.batcher.deadline() == 140
    assert lanes.take(now=140) == [second]


def test_sweeping() -> None:
    lanes = Lanes(Limits(8, 3, 100), Limits(8), Limits(8, 2))
    waiting = lanes.add(Op(0, since=1), Op(0, since=2))
    ready = lanes.add(Op(1), Op(1))
    gone = lanes.add(Op(2), Op(2))
    for op in waiting[0], ready[0], *gone:
        op.wanted = False
    lanes.batcher.sweep()
    assert lanes.batcher.deadline() == 102
    assert lanes.take() == ready[1:] and lanes.take() == []
    added = lanes.add(Op(2), Op(2))
    assert lanes.take() == added
    assert lanes.take(now=102) == waiting[1:]


def test_a_long_lane_is_not_swept_for_every_batch() -> None:
    lanes = Lanes(Limits(4, 2))
    lanes.add(*ops(0, *[1] * 1000))
    while lanes.take():
        pass
    assert len(lanes.swept) == 500


def test_limits_may_change() -> None:
    limits = Limits(8, 4)
    lanes = Lanes(limits)
    added = lanes.add(*ops(0, 1, 2))
    assert lanes.take() == []
    limits.batchsize, limits.minbatchsize = 1, 0
    lanes.batcher.sweep()
    assert [lanes.take(), lanes.take(), lanes.take()] == [added[:1], added[1:], []]


def test_nothing_piles_up() -> None:
    lanes = Lanes(*[Limits(2, 2, 1000 * SECOND)] * 1000)
    for number in range(10_000):
        pair = lanes.add(*ops(number % 1000, 1, 1, since=number))
        assert lanes.take(now=number) == pair
    batcher = lanes.batcher
    assert not batcher._lanes and not batcher._ready and len(batcher._timers) < 100


LIMITS = st.builds(
    lambda size, min_size, timeout: Limits(size, min(min_size, size), timeout if min_size else 0),
    st.integers(1, 8),
    st.integers(0, 8),
    st.sampled_from([0, 3, 10]),
)
ACTIONS = st.sampled_from(["add", "add", "add", "take", "drop", "sweep"])
STEPS = st.tuples(ACTIONS, st.integers(0, 3), st.integers(1, 10), st.integers(0, 5))  # numbers: see what uses them


class Expected:
    """What waits, by lane, and what a batcher has to do with it: plainly, by looking at everything."""

    def __init__(self, limits: list[Limits]) -> None:
        self.limits = limits
        self.lanes: dict[int, list[Op]] = defaultdict(list)

    def is_ready(self, lane: int, now: int) -> bool:
        limits, waiting = self.limits[lane], self.lanes[lane]
        if not limits.minbatchsize:
            return bool(waiting)
        wanted = [op for op in waiting if op.wanted]
        return sum(op.rows for op in wanted) >= limits.minbatchsize or (
            bool(wanted) and limits.minbatchtimeout > 0 and self.due(wanted, lane) <= now
        )

    def due(self, wanted: list[Op], lane: int) -> int:
        return min(op.since for op in wanted) + self.limits[lane].minbatchtimeout

    def ready(self, now: int) -> list[int]:
        return [lane for lane in self.lanes if self.is_ready(lane, now)]

    def deadline(self) -> int:
        """When a lane becomes ready by time alone; 0: none does."""
        moments = []
        for lane, waiting in self.lanes.items():
            wanted = [op for op in waiting if op.wanted]
            if wanted and self.limits[lane].minbatchtimeout and not self.is_ready(lane, -SECOND):
                moments.append(self.due(wanted, lane))
        return min(moments, default=0)


@settings(max_examples=500, deadline=None)
@given(st.lists(LIMITS, min_size=4, max_size=4), st.lists(STEPS, max_size=60), st.booleans())
def test_whatever_happens(limits: list[Limits], steps: list[tuple[str, int, int, int]], drops: bool) -> None:
    lanes, expected = Lanes(*limits), Expected(limits)
    batcher = lanes.batcher
    now = 100
    for action, lane, rows, time in steps:
        if action == "add":
            expected.lanes[lane] += lanes.add(Op(lane, rows, now - time))
        elif action == "take":
            now += time
            check_take(lanes, expected, now, drops)
        elif action == "drop" and drops and expected.lanes[lane]:
            expected.lanes[lane][rows % len(expected.lanes[lane])].wanted = False
        elif action == "sweep":
            batcher.sweep()
            for waiting in expected.lanes.values():
                waiting[:] = [op for op in waiting if op.wanted]
        due = expected.deadline()
        if due > now:
            assert batcher.ready or 0 < batcher.deadline() <= due
        if due == 0 and not drops:
            assert batcher.deadline() == 0
        assert batcher.ready or not expected.ready(min(now, due - 1) if due else now)
        assert sum(len(lane.ops) for lane in batcher._lanes.values()) <= sum(map(len, expected.lanes.values()))
        assert all(lane.rows == sum(op.rows for op in lane.ops) > 0 for lane in batcher._lanes.values())

    while check_take(lanes, expected, now + SECOND, drops):  # none is lost: all come, but for minima without a time-out
        pass
    for lane, waiting in expected.lanes.items():
        kept = [op for op in waiting if op.wanted]
        if kept:
            assert sum(op.rows for op in kept) < limits[lane].minbatchsize and not limits[lane].minbatchtimeout
    if not drops:
        assert sum(len(lane.ops) for lane in batcher._lanes.values()) == sum(map(len, expected.lanes.values()))


def check_take(lanes: Lanes, expected: Expected, now: int, drops: bool) -> bool:
    ready = expected.ready(now)
    batch = lanes.take(now)
    if not batch:
        assert not ready
        return False
    lane = batch[0].lane
    limits, waiting = expected.limits[lane], expected.lanes[lane]
    assert lane in ready
    if not drops:
        assert waiting[0].since == min(expected.lanes[lane][0].since for lane in ready)
    assert len(batch) == 1 or sum(op.rows for op in batch) <= limits.batchsize
    # In order, leaving none out but those that nobody waits for, and as many as fit.
    index = 0
    for op in batch:
        while waiting[index] is not op:
            assert not waiting[index].wanted
            index += 1
        index += 1
    del waiting[:index]
    if waiting and not drops:
        assert sum(op.rows for op in batch) + waiting[0].rows > limits.batchsize
    return True
