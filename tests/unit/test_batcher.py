"""Which ops share a batch, and when: the batcher without the bridge, at times that the tests choose."""

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
    batch_key: int
    rows: int = 1
    arrival: int = 0
    wanted: bool = True
    id: int = 0
    priority: int = 2
    number: int = field(default_factory=count().__next__)


class Groups:
    """A batcher with the limits of its groups by batch key. Records the ops that it sweeps."""

    def __init__(self, *limits: Limits) -> None:
        self.limits = limits
        self.swept: list[Op] = []
        self.batcher: Batcher[Op] = Batcher(lambda op: limits[op.batch_key], self._sweep)

    def _sweep(self, ops: list[Op]) -> list[Op]:
        self.swept += ops
        return [op for op in ops if op.wanted]

    def add(self, *ops: Op) -> list[Op]:
        self.batcher.add(ops)
        return list(ops)

    def take(self, now: int = 0) -> list[Op]:
        return self.batcher.take(now)


def ops(group: int, *rows: int, arrival: int = 0) -> list[Op]:
    return [Op(group, count, arrival) for count in rows]


def test_a_group_is_ready_with_its_first_op() -> None:
    groups = Groups(Limits(8))
    assert not groups.batcher.ready and groups.take() == [] and groups.batcher.deadline() == 0
    added = groups.add(*ops(0, 1))
    assert groups.batcher.ready and groups.batcher.deadline() == 0
    assert groups.take() == added
    assert not groups.batcher.ready and groups.take() == []


def test_a_batch_closes_before_the_op_that_would_exceed_it() -> None:
    groups = Groups(Limits(8))
    added = groups.add(*ops(0, 3, 3, 3, 1, 4, 1))
    assert [groups.take(), groups.take(), groups.take()] == [added[:2], added[2:5], added[5:]]


def test_an_op_that_is_too_large_goes_alone() -> None:
    groups = Groups(Limits(4))
    added = groups.add(*ops(0, 9, 1, 4, 9))
    assert [groups.take() for _ in range(4)] == [[op] for op in added]


def test_groups_of_two_models_do_not_mix_with_the_same_batch_key() -> None:
    groups = Groups(Limits(8))
    added = groups.add(Op(0, id=1), Op(0, id=2), Op(0, id=1))
    assert [groups.take(), groups.take()] == [[added[0], added[2]], [added[1]]]


def test_groups_do_not_mix_and_the_oldest_comes_first() -> None:
    groups = Groups(Limits(8), Limits(8))
    young = groups.add(Op(0, arrival=5), Op(0, arrival=6))
    old = groups.add(Op(1, arrival=3), Op(1, arrival=9))
    assert [groups.take(), groups.take()] == [old, young]


def test_what_is_left_of_a_group_is_scheduled_again() -> None:
    groups = Groups(Limits(2), Limits(2))
    busy = groups.add(*(Op(0, arrival=arrival) for arrival in (1, 2, 3, 5)))
    other = groups.add(Op(1, arrival=4))
    later = groups.add(Op(1, arrival=7))
    assert [groups.take() for _ in range(3)] == [busy[:2], busy[2:], other + later]


def test_a_minimum_is_waited_for() -> None:
    groups = Groups(Limits(8, 4))
    added = groups.add(*ops(0, 1, 2))
    assert groups.take(now=SECOND) == [] and groups.batcher.deadline() == 0
    added += groups.add(*ops(0, 1))
    assert groups.take() == added


def test_a_minimum_counts_all_that_wait_though_a_batch_cannot_take_them() -> None:
    groups = Groups(Limits(8, 8))
    added = groups.add(*ops(0, 7, 7))
    assert groups.take() == added[:1]
    assert groups.take() == []
    added += groups.add(*ops(0, 1))
    assert groups.take() == added[1:]


def test_a_time_out_is_that_of_the_oldest() -> None:
    groups = Groups(Limits(8, 4, 100))
    added = groups.add(Op(0, arrival=50), Op(0, arrival=20), Op(0, arrival=60))
    assert groups.batcher.deadline() == 120
    assert groups.take(now=119) == []
    assert groups.take(now=120) == added
    assert groups.batcher.deadline() == 0


def test_the_deadline_of_a_group_that_filled_up_is_forgotten() -> None:
    groups = Groups(Limits(2, 2, 100))
    added = groups.add(*ops(0, 1, 1, 1))
    assert groups.take() == added[:2]
    assert groups.batcher.deadline() == 100
    more = groups.add(Op(0, arrival=70))
    assert groups.take() == [added[2], *more]
    assert groups.batcher.deadline() == 0 and groups.take(now=100) == []
    last = groups.add(Op(0, arrival=90))
    assert groups.batcher.deadline() == 190 and groups.take(now=189) == [] and groups.take(now=190) == last


def test_deadlines_of_several_groups() -> None:
    groups = Groups(Limits(8, 4, 100), Limits(8, 4, 10), Limits(8))
    slow, fast = groups.add(Op(0), Op(1, arrival=50))
    assert groups.batcher.deadline() == 60
    now = groups.add(Op(2, arrival=55))
    assert groups.take(now=60) == [fast]  # the older of two that are ready
    assert groups.take(now=60) == now
    assert groups.batcher.deadline() == 100
    assert groups.take(now=100) == [slow]


def test_only_ops_that_somebody_waits_for_count() -> None:
    groups = Groups(Limits(8, 3, 100))
    added = groups.add(Op(0, arrival=1, wanted=False), Op(0, arrival=2), Op(0, arrival=3))
    assert groups.batcher.ready and groups.take(now=50) == []
    assert not groups.batcher.ready and groups.batcher.deadline() == 102
    added += groups.add(Op(0, arrival=4))
    assert groups.take(now=50) == added[1:]


def test_a_time_out_of_an_op_that_nobody_waits_for_makes_nothing_ready() -> None:
    groups = Groups(Limits(8, 3, 100))
    first, second = groups.add(Op(0, arrival=10), Op(0, arrival=40))
    first.wanted = False
    assert groups.take(now=110) == [] and groups.batcher.deadline() == 140
    assert groups.take(now=140) == [second]


def test_sweeping() -> None:
    groups = Groups(Limits(8, 3, 100), Limits(8), Limits(8, 2))
    waiting = groups.add(Op(0, arrival=1), Op(0, arrival=2))
    ready = groups.add(Op(1), Op(1))
    gone = groups.add(Op(2), Op(2))
    for op in waiting[0], ready[0], *gone:
        op.wanted = False
    groups.batcher.sweep()
    assert groups.batcher.deadline() == 102
    assert groups.take() == ready[1:] and groups.take() == []
    added = groups.add(Op(2), Op(2))
    assert groups.take() == added
    assert groups.take(now=102) == waiting[1:]


def test_a_long_group_is_not_swept_for_every_batch() -> None:
    groups = Groups(Limits(4, 2))
    groups.add(*ops(0, *[1] * 1000))
    while groups.take():
        pass
    assert len(groups.swept) == 500


def test_limits_may_change() -> None:
    limits = Limits(8, 4)
    groups = Groups(limits)
    added = groups.add(*ops(0, 1, 2))
    assert groups.take() == []
    limits.batchsize, limits.minbatchsize = 1, 0
    groups.batcher.sweep()
    assert [groups.take(), groups.take(), groups.take()] == [added[:1], added[1:], []]


def test_nothing_piles_up() -> None:
    groups = Groups(*[Limits(2, 2, 1000 * SECOND)] * 1000)
    for number in range(10_000):
        pair = groups.add(*ops(number % 1000, 1, 1, arrival=number))
        assert groups.take(now=number) == pair
    batcher = groups.batcher
    assert not batcher._groups and not batcher.ready and len(batcher._deadlines) < 100


# ---- priorities ------------------------------------------------------------------------------------------------------

LOW, NORMAL, HIGH = 1, 2, 3


def at(priority: int, *rows: int, group: int = 0, arrival: int = 0) -> list[Op]:
    return [Op(group, count, arrival, priority=priority) for count in rows]


def test_the_highest_that_is_ready_comes_first_unless_one_is_asked_for() -> None:
    groups = Groups(Limits(2), Limits(2))
    low = groups.add(*at(LOW, 1, 1))
    high = groups.add(*at(HIGH, 1, 1, group=1, arrival=9))
    assert groups.batcher.ready == 1 << LOW | 1 << HIGH
    assert groups.batcher.take(0, NORMAL) == []
    assert groups.batcher.take(0, LOW) == low
    assert groups.take() == high
    assert not groups.batcher.ready and groups.take() == []


def test_a_batch_with_room_takes_others_the_highest_first() -> None:
    groups = Groups(Limits(4))
    low, normal, high = groups.add(*at(LOW, 1, 1)), groups.add(*at(NORMAL, 1, 1)), groups.add(*at(HIGH, 1))
    assert groups.batcher.take(0, HIGH) == [*high, *normal, low[0]]
    assert groups.batcher.ready >> LOW & 1
    assert groups.batcher.take(0, HIGH) == groups.batcher.take(0, NORMAL) == []
    assert groups.batcher.take(0, LOW) == [low[1]]
    assert not groups.batcher._groups


def test_a_turn_of_a_lower_one_begins_with_its_own() -> None:
    groups = Groups(Limits(3))
    low, high = groups.add(*at(LOW, 1)), groups.add(*at(HIGH, 1, 1, 1))
    assert groups.batcher.take(0, LOW) == [*low, *high[:2]]
    assert groups.take() == high[2:]


def test_the_minimum_counts_all() -> None:
    groups = Groups(Limits(8, 3, 100))
    low, high = groups.add(*at(LOW, 1, arrival=20)), groups.add(*at(HIGH, 1, arrival=50))
    assert not groups.batcher.ready and groups.batcher.deadline() == 120
    normal = groups.add(*at(NORMAL, 1, arrival=60))
    assert groups.batcher.ready == 1 << LOW | 1 << NORMAL | 1 << HIGH
    assert groups.batcher.take(60, HIGH) == [*high, *normal, *low]
    assert groups.batcher.deadline() == 0 and groups.take(now=SECOND) == []


def test_only_the_wanted_of_all_count() -> None:
    groups = Groups(Limits(8, 3))
    low, high = groups.add(*at(LOW, 1, 1)), groups.add(*at(HIGH, 1))
    low[0].wanted = False
    assert groups.take() == groups.take() == [] and not groups.batcher.ready
    more = groups.add(*at(NORMAL, 1))
    assert groups.take() == [*high, *more, low[1]]


def test_a_tuned_wait_is_not_for_higher_ones() -> None:
    limits = Limits(8, 5, since=100, held_from=50, held_until=200, held_priority=NORMAL)
    groups = Groups(limits)
    low, normal = groups.add(*at(LOW, 1, arrival=110)), groups.add(*at(NORMAL, 1, arrival=110))
    assert groups.take(now=150) == [] and groups.batcher.deadline() == 200
    high = groups.add(*at(HIGH, 1, arrival=150))
    assert groups.take(now=150) == [*high, *normal, *low]


def test_a_tuned_wait_ends_where_others_would_have_the_turn() -> None:
    tuned = Limits(8, 5, since=100, held_from=50, held_until=200, is_tuned=True)
    groups = Groups(tuned, Limits(8, 5, 100))
    groups.add(*at(NORMAL, 1, group=1, arrival=110))
    assert groups.batcher.held == 0, "whoever has set a minimum wants it"
    normal = groups.add(*at(NORMAL, 1, arrival=110))
    assert groups.batcher.held == 1 << NORMAL and not groups.batcher.ready
    groups.batcher.end_hold(LOW)
    assert groups.take(now=150) == []
    groups.batcher.end_hold(NORMAL)
    assert groups.batcher.held == 0 and groups.batcher.ready == 1 << NORMAL
    assert groups.take(now=150) == normal


def test_a_tuned_size_counts_the_rows_of_all() -> None:
    groups = Groups(Limits(1, sizes=[1, 1], trial=4))
    groups.add(*at(LOW, 1))
    groups.add(*at(HIGH, 1, 1))
    assert len(groups.take()) == 3


def test_a_deadline_takes_all() -> None:
    groups = Groups(Limits(8, 5, 100))
    low, high = groups.add(*at(LOW, 1, arrival=20)), groups.add(*at(HIGH, 1, arrival=50))
    assert groups.take(now=119) == []
    assert groups.take(now=120) == [*low, *high]
    assert not groups.batcher._groups and groups.batcher.deadline() == 0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(lambda size, least: Limits(size, min(size, least)), st.integers(1, 8), st.integers(0, 8)), min_size=2
    ),
    st.lists(
        st.tuples(st.sampled_from(["add", "add", "take", "drop", "sweep"]), *[st.integers(0, 9)] * 3), max_size=80
    ),
)
def test_none_is_lost_or_comes_twice(limits: list[Limits], steps: list[tuple[str, int, int, int]]) -> None:
    groups = Groups(*limits)
    batcher = groups.batcher
    waiting: list[Op] = []

    def take(priority: int) -> list[Op]:
        batch = batcher.take(0, priority)
        assert len(batch) == 1 or sum(op.rows for op in batch) <= limits[batch[0].batch_key if batch else 0].batchsize
        assert len({op.batch_key for op in batch}) <= 1
        for op in batch:
            waiting.remove(op)
        return batch

    for action, first, second, third in steps:
        if action == "add":
            waiting += groups.add(*at(first % 3 + 1, third + 1, group=second % len(limits)))
        elif action == "take":
            ready = batcher.ready
            batch = take(first % 4)
            assert not batch or ready
        elif action == "drop" and waiting:
            waiting[first % len(waiting)].wanted = False
        elif action == "sweep":
            batcher.sweep()
            waiting[:] = [op for op in waiting if op.wanted]
        counts = [sum(key[2] == priority for key in batcher._groups) for priority in range(4)]
        assert batcher._counts == counts
        for group in batcher._groups.values():
            assert group.rows == sum(op.rows for op in group.ops) > 0
    while batcher.ready:
        take(0)
    for key, limit in enumerate(limits):
        left = sum(op.rows for op in waiting if op.batch_key == key and op.wanted)
        assert left < max(limit.minbatchsize, 1)


LIMITS = st.builds(
    lambda size, minimum, timeout: Limits(size, min(minimum, size), timeout if minimum else 0),
    st.integers(1, 8),
    st.integers(0, 8),
    st.sampled_from([0, 3, 10]),
)
ACTIONS = st.sampled_from(["add", "add", "add", "take", "drop", "sweep"])
STEPS = st.tuples(
    ACTIONS, st.integers(0, 3), st.integers(1, 10), st.integers(0, 5)
)  # what the numbers mean depends on the action


class Expected:
    """What a batcher has to do, computed plainly: by looking at every op that waits."""

    def __init__(self, limits: list[Limits]) -> None:
        self.limits = limits
        self.groups: dict[int, list[Op]] = defaultdict(list)

    def is_ready(self, group: int, now: int) -> bool:
        limits, waiting = self.limits[group], self.groups[group]
        if not limits.minbatchsize:
            return bool(waiting)
        wanted = [op for op in waiting if op.wanted]
        return sum(op.rows for op in wanted) >= limits.minbatchsize or (
            bool(wanted) and limits.minbatchtimeout > 0 and self.due(wanted, group) <= now
        )

    def due(self, wanted: list[Op], group: int) -> int:
        return min(op.arrival for op in wanted) + self.limits[group].minbatchtimeout

    def ready(self, now: int) -> list[int]:
        return [group for group in self.groups if self.is_ready(group, now)]

    def deadline(self) -> int:
        """When a group becomes ready by time alone; 0: none does."""
        deadlines = []
        for group, waiting in self.groups.items():
            wanted = [op for op in waiting if op.wanted]
            if wanted and self.limits[group].minbatchtimeout and not self.is_ready(group, -SECOND):
                deadlines.append(self.due(wanted, group))
        return min(deadlines, default=0)


@settings(max_examples=500, deadline=None)
@given(st.lists(LIMITS, min_size=4, max_size=4), st.lists(STEPS, max_size=60), st.booleans())
def test_whatever_happens(limits: list[Limits], steps: list[tuple[str, int, int, int]], drops: bool) -> None:
    groups, expected = Groups(*limits), Expected(limits)
    batcher = groups.batcher
    now = 100
    for action, group, rows, time in steps:
        if action == "add":
            expected.groups[group] += groups.add(Op(group, rows, now - time))
        elif action == "take":
            now += time
            check_take(groups, expected, now, drops)
        elif action == "drop" and drops and expected.groups[group]:
            expected.groups[group][rows % len(expected.groups[group])].wanted = False
        elif action == "sweep":
            batcher.sweep()
            for waiting in expected.groups.values():
                waiting[:] = [op for op in waiting if op.wanted]
        due = expected.deadline()
        if due > now:
            assert batcher.ready or 0 < batcher.deadline() <= due
        if due == 0 and not drops:
            assert batcher.deadline() == 0
        assert batcher.ready or not expected.ready(min(now, due - 1) if due else now)
        assert sum(len(group.ops) for group in batcher._groups.values()) <= sum(map(len, expected.groups.values()))
        assert all(group.rows == sum(op.rows for op in group.ops) > 0 for group in batcher._groups.values())

    while check_take(groups, expected, now + SECOND, drops):  # all come, unless a minimum without a time-out is missed
        pass
    for group, waiting in expected.groups.items():
        kept = [op for op in waiting if op.wanted]
        if kept:
            assert sum(op.rows for op in kept) < limits[group].minbatchsize and not limits[group].minbatchtimeout
    if not drops:
        assert sum(len(group.ops) for group in batcher._groups.values()) == sum(map(len, expected.groups.values()))


def check_take(groups: Groups, expected: Expected, now: int, drops: bool) -> bool:
    ready = expected.ready(now)
    batch = groups.take(now)
    if not batch:
        assert not ready
        return False
    group = batch[0].batch_key
    limits, waiting = expected.limits[group], expected.groups[group]
    assert group in ready
    if not drops:
        assert waiting[0].arrival == min(expected.groups[group][0].arrival for group in ready)
    assert len(batch) == 1 or sum(op.rows for op in batch) <= limits.batchsize
    # In order, as many as fit; only ops that nobody waits for are left out.
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
