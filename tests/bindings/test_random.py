"""Random writers, deleters, renamers and expirations, with a crash and a failover in between.

At rest, every key's result belongs to its newest value, and every entry of a stream has one result, in order."""

from __future__ import annotations

import random
import threading

import redis

from testkit.replicas import caught_up, follow, is_in_step
from testkit.restarts import AOF
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.bindings.kit import BINDINGS, bind, binding, settle, store
from tests.conftest import StartServer

SEED = random.randrange(10**6)
KEYS = [f"k:{i}" for i in range(40)]


class Writer(threading.Thread):
    """Until it is told to stop, or the server dies."""

    def __init__(self, server: Server, number: int, seed: int, first: int) -> None:
        super().__init__(daemon=True)
        self.client = server.client()
        self.number, self.random, self.next = number, random.Random(seed), first
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                self.act()
        except redis.RedisError:
            pass
        self.client.close()

    def act(self) -> None:
        pick, one, other = self.random.random(), self.random.choice(KEYS), self.random.choice(KEYS)
        value = self.random.randrange(10**6)
        with self.client.pipeline(transaction=pick < 0.1) as pipeline:
            if pick < 0.6:
                for key in self.random.choices(KEYS, k=5):
                    pipeline.hset(key, "x", str(value))
            if pick < 0.2:
                pipeline.delete(one)
            if 0.1 < pick < 0.3 and one != other:
                pipeline.hset(one, "x", str(value))
                pipeline.rename(one, other)
            if 0.6 < pick < 0.7:
                pipeline.hset(one, "x", str(value))
                pipeline.pexpire(one, self.random.randrange(1, 30))
            if 0.7 < pick < 0.8:
                pipeline.hset(one, "x", "1")
                pipeline.hincrby(one, "x", value)
            if pick > 0.8:
                pipeline.hset("n:1", "x", "1")
                pipeline.eval("return redis.call('HSET', KEYS[1], 'x', ARGV[1])", 1, one, value)
            self.next += 1
            pipeline.xadd(f"in:{self.number}", {"x": str(self.next)}, f"{self.next}-1")
            pipeline.execute()


def load(server: Server, phase: int, seconds: float, *, crash: bool = False) -> None:
    writers = [Writer(server, n, 10 * SEED + 3 * phase + n, phase * 1_000_000) for n in range(3)]
    threading.Event().wait(seconds)
    if crash:
        server.kill()
    for writer in writers:
        writer.stopped.set()
    for writer in writers:
        writer.join(10)


def check(wire: Wire, *, has_crashed: bool) -> None:
    settle(wire, 20)
    for key in KEYS:
        x, y = wire.ask("HMGET", key, "x", "y")
        assert y == (None if x is None else b"%d" % (2 * int(x) + 1)), (key, x, y)
    assert wire.ask("HEXISTS", "n:1", "y") == 0
    results = [dict(zip(f[::2], f[1::2], strict=True)) for _, f in wire.ask("XRANGE", "out", "-", "+")]
    for name in (b"in:0", b"in:1", b"in:2"):
        mine = [(each[b"id"], each[b"y"]) for each in results if each[b"stream"] == name]
        if has_crashed:
            mine = list(dict.fromkeys(mine))
        assert mine == [(id, b"%d" % (2 * int(f[1]) + 1)) for id, f in wire.ask("XRANGE", name, "-", "+")]
    assert binding(wire)["errors"] == binding(wire, "stream")["errors"] == 0


def test_at_rest_all_is_right(start_server: StartServer) -> None:
    print("seed", SEED)
    arguments = ("--repl-diskless-sync-delay", "0", *AOF)
    master, replica = (start_server(*arguments, options=BINDINGS) for _ in range(2))
    with master.wire() as wire:
        store(wire)
        bind(wire, "ON HASH PREFIX 1 k: FIELDS 1 x MODEL m SET 1 y")
        bind(wire, "ON STREAM PREFIX 1 in: FIELDS 1 x MODEL m SET 1 y STREAM out", "stream")
        load(master, 1, 1)
        check(wire, has_crashed=False)
    load(master, 2, 1, crash=True)
    master.start()
    with master.wire() as wire, replica.wire() as other:
        check(wire, has_crashed=True)
        follow(replica, master)
        load(master, 3, 1)
        wire.ask_ok("FAILOVER")
        wait_for(lambda: other.ask("ROLE")[0] == b"master" and is_in_step(wire), 20, "the failover")
        load(replica, 4, 1)
        check(other, has_crashed=True)
        caught_up(other)
        check(wire, has_crashed=True)
