"""BATCHSIZE auto: decides how many rows run together, by how long runs have taken. Pure logic: it knows neither the
bridge nor a clock. Workers enter, under the batcher's lock.

Rows: the least size, of the powers of two, at which a row costs about as little as at the best one. Larger ones are
tried where so many rows wait, one size at a time, and now and then again. Some libraries take long for two rows, and
little for eight. So a size that is no gain does not end the search.

Waiting: what gathers while a worker is busy runs next, so on an idle server nothing waits. But the clients that a batch
has just answered often send again at once. If the time that one run saves is longer than that takes, two batches are
better run as one: then the next batch waits for as many rows as were there, and no longer than it can save. Where waits
have been no gain, the next are left out, each time four times as many.

Quick models: batches take time of their own, in Python and in waking others, and clients wait for each other. No single
time shows what is better. So batches wait for half of the rows that are there, which lets clients and a worker go on at
the same time. Now and then a look compares how many ops are done in this way and without batches, when ops run as if
there were no BATCHSIZE. And not every batch is judged, since that, too, takes time.

Alone: nothing runs in batches while ops come one by one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from math import log

from .batcher import Limits

GAIN = 1.03  # what a larger batch must save
LEAST_SAVING = 1 / 16  # of the time of a run: less is not worth a wait
SAMPLES = 4  # runs of one size before it is compared
REACH = 3  # sizes beyond the best that are tried
REFRESH = 128  # runs after which a size is tried again that is no gain; twice as many for each further one
NEAR, SOON = 1.25, 32  # those that take up to so many times as long are tried after so many: it may have been chance
MAX_REST = 1023  # batches without waiting after waits in vain
EVERY = 8  # runs after which a known size is compared again: that takes as long as a tiny run
QUICK_NS = 200_000  # for an op: what batches take of their own counts then, and is not in the times of runs
SLOW_NS = 500_000  # for an op: batches are worth it whenever run times say so
BATCH_NS = 50_000  # what a batch takes beside its run
GATHER_NS = 1_000_000  # the most that a quick batch waits
UNSEEN = 7  # quick batches for each that is judged
# Of a look: each so long or longer, and without batches not much longer.
WINDOWS, WINDOW_NS, WINDOW_RUNS, WINDOW_OPS = 4, 10_000_000, 8, 64
BETTER = 1.03  # times as many ops with batches, else they run alone
CLEAR = 1.5  # times as many either way: two windows of each are enough
LOOKS, MOST = 8, 0.3  # how many looks that is the mean of, and the most that one counts, as a logarithm
HOLD, MAX_HOLD = 4, 64  # how long it holds: times what the look took; twice as long each time that it is confirmed
FEWER = 8  # runs in a row with less than half of the crowd: most clients have left, what was found holds no longer
LONE_RUNS = 6  # in a row that were of one op, which had not waited: the next ops run alone
LONE_AGAIN = 2  # after that, so many are enough
LONE_OPS, LONE_NS = 2000, 400_000_000  # how long


@dataclass(slots=True)
class _Mean:
    """Of runs of about one size. The quick ones count more: slow ones tell what else the machine did."""

    rows: float = 0.0
    ns: float = 0.0
    count: int = 0
    latest: int = 0  # the number of the latest run

    def add(self, rows: int, ns: int, number: int) -> None:
        self.count += 1
        self.latest = number
        quick = self.count == 1 or ns * self.rows < self.ns * rows
        weight = 1 / 4 if quick else 1 / 16
        if self.count <= SAMPLES:  # the first run of a size may take much longer than any other
            weight = 1.0 if quick else 0.0
        self.rows += (rows - self.rows) * weight
        self.ns += (ns - self.ns) * weight


@dataclass(slots=True)
class Batch:
    """One that has run. Times are ns of one clock."""

    ops: int
    rows: int
    priority: int  # the highest
    is_lone: bool  # it is one op, which came after the end of the worker's run before
    begin: int = 0
    end: int = 0


class Tuner:
    """Changes the limits of one model."""

    def __init__(self, limits: Limits, max_rows: int) -> None:
        """max_rows: a power of two."""
        self.limits = limits
        self.runs = 0
        self._means = [_Mean() for _ in range(max_rows.bit_length())]  # of up to 1, 2, 4 ... rows
        self._known: list[_Mean] = []  # those of them that have enough runs
        self._most = len(self._means) - 1
        self._rows = 0  # of the latest run
        self._present = 1  # rows that were there when the wait was planned
        self._best = 0  # bucket
        self._worth = 0.0  # of recent waits: ns that they have saved, less those that they took
        self._rest = 0  # batches that do not wait
        self._penalty = 0  # how many those are the next time
        self.alone = 0  # so many of the next ops are to run alone; whoever sees to that makes it 0
        self.runs_alone = False  # what the latest look has found
        self.rates = [0, 0]  # in the latest look: ops per second with batches and alone
        self._gain = 0.0  # of batches, in recent looks: the logarithm of the ratio
        self._op_rows = 1.0  # of an op
        self._crowd = 0.0  # rows that there are when a run ends, its own among them
        self._is_short = False  # the latest run had fewer than it waited for
        self._unseen = 0  # so many of the next batches need not be judged
        self._lone = 0  # lone runs in a row
        self._looked_at = 0.0  # the crowd of the latest look
        self._fewer = 0  # runs in a row of a crowd of less than half of that
        self._now = self._done = self._left = 0  # of look()
        self._looks = self._look()
        self._choose_size()

    def costs(self) -> list[int]:
        """ns per row in runs of up to 1, 2, 4 ... rows; 0: not known."""
        return [int(mean.ns / mean.rows) if mean.count else 0 for mean in self._means]

    @property
    def wait(self) -> int:
        """ns that the next batch may wait."""
        limits = self.limits
        if not limits.minbatchsize:
            return 0
        return limits.minbatchtimeout or limits.held_until - limits.since

    def leaves_out(self, ops: int) -> bool:
        """Whether the next batch, of so many ops, need not be judged. Needs no lock: a wrong count does no harm."""
        if self._unseen <= 0 or self.alone or ops == 1 or 0 < self.limits.trial < 2 * ops * self._op_rows:
            return False
        self._unseen -= 1
        return True

    def ran(self, batch: Batch) -> None:
        limits, rows = self.limits, batch.rows
        self._rest = max(0, self._rest - 1)
        self._judge_wait(batch)
        bucket = self._bucket(rows)
        self.runs += 1
        self._op_rows += (rows / batch.ops - self._op_rows) / 8
        mean = self._means[bucket]
        mean.add(rows, batch.end - batch.begin, self.runs)
        if mean.count == SAMPLES:
            self._known = [mean for mean in self._means if mean.count >= SAMPLES]
        if mean.count <= SAMPLES or mean.count % EVERY == 0 or limits.trial == 1 << bucket:
            self._choose_size()
        self._rows = rows
        self._is_short = rows < limits.minbatchsize
        limits.held_from, limits.since = limits.since, batch.end
        limits.held_priority = batch.priority
        limits.minbatchsize = 0

    def end_wait(self) -> None:
        """A batch has failed, so there is nothing to learn, and no plan for the next."""
        self.limits.minbatchsize = 0

    def has_run(self, rows: int) -> bool:
        """Whether a batch of about this size has succeeded."""
        return self._means[self._bucket(rows)].count > 0

    def failed(self, rows: int) -> None:
        """A batch has failed that was larger than any before."""
        self._most = max(0, min(self._most, (rows - 1).bit_length() - 1))
        self._choose_size()

    def _choose_size(self) -> None:
        means = self._means
        known = [bucket for bucket, mean in enumerate(means) if mean.count >= SAMPLES and bucket <= self._most]
        self._best = 0
        if known:
            limit = min(self._cost(bucket) for bucket in known) * GAIN
            self._best = next(bucket for bucket in known if self._cost(bucket) <= limit)
        larger = range(self._best + 1, min(self._best + REACH, self._most) + 1)
        trial = next((bucket for bucket in larger if self._is_open(bucket)), 0)
        self.limits.batchsize = 1 << self._best
        self.limits.trial = 1 << trial if trial else 0
        self.limits.sizes = [1 << self._size_for(bucket, known) for bucket in range(self._best)]

    def _bucket(self, rows: int) -> int:
        """An op that came before BATCHSIZE was auto may have more rows than the largest."""
        return min((rows - 1).bit_length(), len(self._means) - 1)

    def _cost(self, bucket: int) -> float:
        """ns per row."""
        mean = self._means[bucket]
        return (mean.ns + BATCH_NS) / mean.rows

    def _size_for(self, waiting: int, known: list[int]) -> int:
        """Where fewer rows wait than the best size has, a still smaller one may be better."""
        if self._is_open(waiting):
            return waiting
        return min((bucket for bucket in known if bucket <= waiting), key=self._cost)

    def _is_open(self, bucket: int) -> bool:
        """Whether runs of such a size are to be tried."""
        mean = self._means[bucket]
        if mean.count < SAMPLES:
            return True
        is_near = bucket > self._best and self._cost(bucket) < self._cost(self._best) * NEAR
        return self.runs - mean.latest >= (SOON if is_near else REFRESH << max(1, bucket - self._best))

    def plan(self, waiting: int) -> None:
        """Decides how long the next batch waits, where so many rows have come during the run."""
        limits = self.limits
        limits.minbatchtimeout = self._unseen = 0
        if self._known and self._op_ns <= QUICK_NS:
            self._gather(waiting)
            return
        self._present = max(1, waiting)
        target = min(limits.most(self._rows + waiting), self._rows + waiting)
        saving = 0.0
        if target > self._present and not self._rest:
            rest = self._time(target - self._present)
            saving = self._saving(self._present, target, max(self._time(self._present), rest))
            if saving < rest * LEAST_SAVING:
                saving = 0.0
        limits.minbatchsize = target if saving else 0
        limits.held_until = limits.since + int(saving)

    def _gather(self, waiting: int) -> None:
        """The same for quick models. It holds for the batches after it that are not judged, too."""
        limits = self.limits
        limits.minbatchsize = 0
        if self._left > 0:
            return
        self._crowd += (self._rows + waiting - self._crowd) / (2 if self._is_short else 4)
        crowd = round(self._crowd)
        limits.minbatchsize = min(limits.most(max(1, crowd)), crowd) // 2
        limits.minbatchtimeout = GATHER_NS
        self._unseen = 0 if self._is_short else UNSEEN

    @property
    def _op_ns(self) -> float:
        return self._time(self._op_rows)

    def _judge_wait(self, batch: Batch) -> None:
        limits, present = self.limits, self._present
        if not limits.minbatchsize or limits.minbatchtimeout:
            return
        saved = self._saving(present, batch.rows, batch.end - batch.begin) if batch.rows > present else 0.0
        self._worth += (saved - (batch.begin - limits.since) - self._worth) / 4
        if self._worth > 0:
            self._penalty //= 4
        else:
            self._penalty = self._rest = min(4 * self._penalty + 3, MAX_REST)
            self._worth = 0.0

    def _saving(self, part: int, whole: int, unknown: float) -> float:
        """ns that one run takes less than its two parts. unknown: what it takes if runs of its size are to be tried."""
        is_open = self._is_open(self._bucket(whole))
        return self._time(part) + self._time(whole - part) - (unknown if is_open else self._time(whole))

    def _time(self, rows: float) -> float:
        """ns of a run of so many rows: on a line through the two known sizes that are nearest."""
        known = self._known
        if len(known) < 2:
            return known[0].ns if known else 0.0
        index = 1
        while index < len(known) - 1 and known[index].rows < rows:
            index += 1
        low, high = known[index - 1], known[index]
        slope = (high.ns - low.ns) / (high.rows - low.rows) if high.rows > low.rows else 0.0
        return high.ns + max(slope, 0.0) * (rows - high.rows)

    # ---- alone or in batches ----

    def look(self, batch: Batch, done: int, left: int) -> None:
        """After a run. done: ops of the model that have run, in any way. left: of those that were to run alone, so many
        have not come yet."""
        self._lone = self._lone + 1 if batch.is_lone else 0
        is_few = not batch.is_lone and self._crowd < self._looked_at / 2
        self._fewer = self._fewer + 1 if is_few else 0
        self._now, self._done, self._left = batch.end, done, left
        if not self.alone:  # else another worker's batch has ended first, and C does not know yet
            self.alone = next(self._looks)

    def _look(self) -> Iterator[int]:
        """Gives after each run how many of the next ops are to run alone, without end."""
        hold, looks = HOLD, 0
        due = held = 0  # ops: when the next look is due, and how many lie between
        while True:
            yield 0
            if not self._known:
                continue
            if self._lone >= LONE_RUNS:
                self.runs_alone = True
                yield from self._run_alone(int(min(LONE_OPS, LONE_NS / max(1, self._op_ns))))
                self._lone = LONE_RUNS - LONE_AGAIN
            elif self._op_ns > SLOW_NS:
                self.runs_alone, self.rates = False, [0, 0]
            elif 0 < due - self._done <= held:
                self.runs_alone = self._gain <= 0
                if self.runs_alone:
                    yield from self._run_alone(due - self._done)
                elif self._fewer >= FEWER:
                    hold, looks, due = HOLD, 0, 0
            elif ops := (yield from self._compare()):
                looks = min(looks + 1, LOOKS)
                self._looked_at, self._fewer = self._crowd, 0
                gain = log(max(1, self.rates[0]) / max(1, self.rates[1]) / BETTER)
                self._gain += (max(-MOST, min(gain, MOST)) - self._gain) / looks
                hold = HOLD if (gain <= 0) != (self._gain <= 0) else min(2 * hold, MAX_HOLD)
                held = hold * ops
                due = self._done + held

    def _compare(self) -> Generator[int, None, int]:
        """Returns how many ops the better way would have run meanwhile; 0: it was broken off."""
        rates, first = [0, 0], self._done
        for window in range(WINDOWS):
            now, done, runs = self._now, self._done, 0
            while self._now < now + WINDOW_NS or runs < WINDOW_RUNS:
                yield 0
                runs += 1
                if self._lone >= LONE_RUNS:
                    return 0
            rates[0] = max(rates[0], self._rate(now, done))
            most = max(WINDOW_OPS, int(2 * WINDOW_NS / max(1, self._op_ns)))  # they may take far longer
            now, done = yield from self._run_alone(max(1, min(self._done - done, most)))
            rates[1] = max(rates[1], self._rate(now, done))
            if window and max(rates) > min(rates) * CLEAR:
                break
        self.rates = rates
        return int(max(0, self._done - first) * (1 + min(max(rates) / max(1, min(rates)), 8)) / 2)

    def _run_alone(self, ops: int) -> Generator[int, None, tuple[int, int]]:
        """Returns when they began to do so, and what was done then."""
        yield ops
        begin = self._now, self._done
        while self._left > 0:
            yield 0
        self._lone = 0
        return begin

    def _rate(self, since: int, done: int) -> int:
        """Ops per second. The server may have begun to count anew."""
        return max(0, self._done - done) * 1_000_000_000 // max(1, self._now - since)
