"""KeysReader and KeysOnlyReader: what exists, and events."""

from __future__ import annotations

from testkit.waiting import wait_for
from tests.flows.programs import Programs

NOTE = "GB('KeysReader').foreach(lambda x: execute('RPUSH', 'out', repr(x)))"


def test_values(programs: Programs) -> None:
    for words in ("SET k:1 v", "HSET k:2 f v", "RPUSH k:3 a b", "SADD k:4 m", "ZADD k:5 1.5 m", "XADD k:6 * a b"):
        programs.ask(*words.split())
    programs.ask("SET", "k:7", b"\xff")
    values = "GB().map(lambda x: (x['key'], x['type'], x['value'])).sort(False)"
    assert programs.run(f"{values}.filter(lambda x: x[1] != 'stream').run('k:*')") == [
        "('k:1', 'string', 'v')",
        "('k:2', 'hash', {'f': 'v'})",
        "('k:3', 'list', ['a', 'b'])",
        "('k:4', 'set', {'m'})",
        "('k:5', 'zset', {'m': 1.5})",
        "('k:7', 'string', b'\\xff')",
    ]
    assert programs.run("GB().map(lambda x: x['value']).run('k:6')") == ["None"]
    assert programs.run("GB().map(lambda x: x['value']).run('k:1', readValue=False)") == ["None"]
    assert programs.run("GB().map(lambda x: x['key']).run('k:1', noScan=True)") == ["k:1"]
    assert programs.run("GB().run('none', noScan=True)") == []
    assert programs.run("GB(defaultArg='k:[12]').map(lambda x: x['key']).sort().run()") == ["k:2", "k:1"]


def test_keys_only(programs: Programs) -> None:
    programs.ask("EVAL", "for i=1,2500 do redis.call('SET', 'k' .. i, i) end", 0)
    assert programs.run("GB('KeysOnlyReader').distinct().count().run('k*')") == ["2500"]
    assert programs.run(
        "GB('KeysReader').map(lambda x: int(x['value'])).aggregate(0, lambda a, r: a + r, lambda a, r: a + r).run('k*')"
    ) == [str(2500 * 2501 // 2)]


def test_events(programs: Programs) -> None:
    name = programs.register(f"{NOTE}.register('k*')")
    programs.ask("SET", "other", "x")
    programs.ask("HSET", "k1", "f", "v")
    programs.until("LLEN", "out", is_=1)
    programs.ask("DEL", "k1")
    programs.until(
        *("LRANGE", "out", 0, -1),
        is_=[
            b"{'event': 'hset', 'key': 'k1', 'type': 'hash', 'value': {'f': 'v'}}",
            b"{'event': 'del', 'key': 'k1', 'type': 'empty', 'value': None}",
        ],
    )
    assert programs.counts(name)["numTriggered"] == 2


def test_which_events(programs: Programs) -> None:
    programs.register(f"{NOTE}.register('k*', eventTypes=['set', 'DEL'], readValue=False)")
    programs.register("GB().foreach(lambda x: execute('INCR', 'hashes')).register('k*', keyTypes=['hash'])")
    programs.register(
        "GB().foreach(lambda x: execute('RPUSH', 'commands', x['event'])).register('k*', commands=['mset', 'rpush'])"
    )
    programs.ask("RPUSH", "k1", "x")
    programs.ask("SET", "k2", "x")
    programs.ask("HSET", "k3", "a", "b")
    programs.ask("DEL", "k1")
    programs.until("GET", "hashes", is_=b"1")
    programs.until("LRANGE", "commands", 0, -1, is_=[b"rpush", b"set"])
    programs.until("LLEN", "out", is_=2)
    assert programs.ask("LINDEX", "out", 0) == b"{'event': 'set', 'key': 'k2', 'type': 'string', 'value': None}"


def test_events_are_run_in_order(programs: Programs) -> None:
    programs.register("GB().foreach(lambda x: execute('RPUSH', 'out', x['key'])).register('k*', readValue=False)")
    with programs.server.wire() as wire:
        wire.ask("EVAL", "for i=1,300 do redis.call('SET', 'k' .. i, i) end", 0)
    programs.until("LLEN", "out", is_=300)
    assert programs.ask("LRANGE", "out", 0, -1) == [b"k%d" % n for n in range(1, 301)]


def test_an_expired_key(programs: Programs) -> None:
    programs.register(f"{NOTE}.register('k*', eventTypes=['expired'])")
    programs.ask("SET", "k", "v", "PX", 1)
    wait_for(lambda: programs.ask("GET", "k") is None)
    programs.until("LRANGE", "out", 0, -1, is_=[b"{'event': 'expired', 'key': 'k', 'type': 'empty', 'value': None}"])
