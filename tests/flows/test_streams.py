"""StreamReader: order, batches, positions, failures."""

from __future__ import annotations

import pytest

from testkit.waiting import wait_for
from tests.flows.programs import Programs

COLLECT = "GB('StreamReader').foreach(lambda x: execute('RPUSH', 'out', x['value']['n']))"
TOGETHER = (
    "GB('StreamReader').map(lambda x: x['value']['n']).accumulate(lambda a, r: (a or '') + r)"
    ".foreach(lambda x: execute('RPUSH', 'out', x))"
)


def add(programs: Programs, *values: object, key: str = "s") -> None:
    for value in values:
        programs.ask("XADD", key, "*", "n", str(value))


def numbers(first: int, last: int) -> list[bytes]:
    return [b"%d" % n for n in range(first, last)]


def test_the_record(programs: Programs) -> None:
    programs.register("GB('StreamReader').foreach(lambda x: execute('SET', 'out', repr(x))).register('s')")
    programs.ask("XADD", "s", "5-1", "a", "ä", "b", b"\xff")
    programs.until("GET", "out", is_="{'key': 's', 'id': '5-1', 'value': {'a': 'ä', 'b': b'\\xff'}}".encode())


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("step", ["foreach(f)", "foreach(g)"])
def test_order(programs: Programs, batch: int, step: str) -> None:
    """Entries that were there, and new ones. A stream is trimmed as they are done."""
    functions = (
        "import asyncio\ndef f(x): execute('RPUSH', 'out', x['value']['n'])\n"
        "async def g(x):\n  await asyncio.sleep(0)\n  f(x)\n"
    )
    add(programs, *range(350))
    name = programs.register(f"{functions}GB('StreamReader').{step}.register('s*', batch={batch})")
    add(programs, *range(350, 700))
    programs.until("LRANGE", "out", 0, -1, is_=numbers(0, 700))
    programs.until("XLEN", "s", is_=0)
    assert programs.counts(name)["numSuccess"] == 700 // batch


def test_streams_run_in_parallel(programs: Programs) -> None:
    """The entry of a waits for that of b."""
    programs.register(
        "import threading\ngo = threading.Event()\n"
        "def f(x):\n  go.set() if x['key'] == 'sb' else go.wait()\n  execute('RPUSH', 'out', x['key'])\n"
        "GB('StreamReader').foreach(f).register('s*')"
    )
    add(programs, 1, key="sa")
    add(programs, 1, key="sb")
    programs.until("LLEN", "out", is_=2)


def test_a_batch_waits_until_it_is_full(programs: Programs) -> None:
    programs.register(f"{TOGETHER}.register('s', batch=3)")
    add(programs, *"abcd")
    programs.until("LRANGE", "out", 0, -1, is_=[b"abc"])
    assert programs.ask("XLEN", "s") in (1, 4)
    add(programs, "e", "f")
    programs.until("LRANGE", "out", 0, -1, is_=[b"abc", b"def"])


def test_a_batch_waits_for_its_duration(programs: Programs) -> None:
    programs.register(f"{TOGETHER}.register('s', batch=100, duration=50)")
    add(programs, *"ab")
    wait_for(lambda: b"".join(programs.ask("LRANGE", "out", 0, -1)) == b"ab")


def test_without_trimming(programs: Programs) -> None:
    name = programs.register(f"{COLLECT}.register('s', trimStream=False)")
    add(programs, 1, 2)
    programs.until("LRANGE", "out", 0, -1, is_=numbers(1, 3))
    assert programs.ask("XLEN", "s") == 2
    (group,) = programs.ask("XINFO", "GROUPS", "s")
    assert group[1] == name.encode()
    assert programs.ask("RG.UNREGISTER", name) == b"OK"
    wait_for(lambda: programs.ask("XINFO", "GROUPS", "s") == [])


def test_two_flows_see_all_entries(programs: Programs) -> None:
    """Neither trims what the other has not run."""
    programs.register(
        "import threading\ngo = threading.Event()\n"
        f"{COLLECT}.register('s')\n"
        "def f(x):\n  go.wait()\n  execute('RPUSH', 'late', x['value']['n'])\n"
        "GB('StreamReader').foreach(f).register('s*')\n"
        "GB('CommandReader').foreach(lambda x: go.set()).register(trigger='go')"
    )
    add(programs, *range(20))
    programs.until("LRANGE", "out", 0, -1, is_=numbers(0, 20))
    assert programs.ask("XLEN", "s") == 20
    programs.trigger("go")
    programs.until("LRANGE", "late", 0, -1, is_=numbers(0, 20))


def test_entries_stay_for_a_flow_whose_code_fails(programs: Programs) -> None:
    """After the process has started anew, another flow does not trim what it has not run."""
    collect = "GB('StreamReader').foreach(lambda x: execute('RPUSH', {!r}, x['value']['n'])).register('s')"
    programs.register(f"execute('GET', 'broken') and 1/0\n{collect.format('late')}", "ID", "a")
    add(programs, 1)
    programs.until("XLEN", "s", is_=0)
    # It is back after the other: whoever runs an entry first cannot know yet whether it may be trimmed.
    programs.register(f"import time\ntime.sleep(0.3)\n{collect.format('out')}", "ID", "b")
    programs.ask("SET", "broken", "1")
    start_anew(programs)
    add(programs, 2, 3)
    programs.until("LRANGE", "out", 0, -1, is_=numbers(2, 4))
    wait_for(lambda: all(b"0-0" not in group for group in programs.ask("XINFO", "GROUPS", "s")))
    assert programs.ask("XLEN", "s") == 2
    programs.ask("DEL", "broken")
    start_anew(programs)
    programs.until("LRANGE", "late", 0, -1, is_=numbers(1, 4))
    programs.until("XLEN", "s", is_=0)


def test_entries_stay_in_a_stream_that_a_late_flow_has_never_seen(programs: Programs) -> None:
    """It is made after the process has started anew, and before the flow's code has run again."""
    code = (
        "import time\nwhile execute('GET', 'wait-{0}'): time.sleep(0.02)\n"
        "GB('StreamReader').foreach(lambda x: execute('RPUSH', '{0}', x['value']['n'])).register('s*')"
    )
    for name in ("late", "early"):
        programs.register(code.format(name), "ID", name)
    programs.ask("MSET", "wait-late", 1, "wait-early", 1)
    start_anew(programs, waits=False)
    add(programs, 1, 2, key="s-new")
    programs.ask("DEL", "wait-early")
    programs.until("LRANGE", "early", 0, -1, is_=numbers(1, 3))
    wait_for(lambda: all(b"0-0" not in group for group in programs.ask("XINFO", "GROUPS", "s-new")))
    assert programs.ask("XLEN", "s-new") == 2
    programs.ask("DEL", "wait-late")
    programs.until("LRANGE", "late", 0, -1, is_=numbers(1, 3))
    programs.until("XLEN", "s-new", is_=0)


def test_entries_stay_for_a_new_version(programs: Programs) -> None:
    """Another flow does not trim them while the old version ends and the new one begins: more than one read has."""
    wait = "import time\ndef wait(key):\n  while execute('GET', key): time.sleep(0.02)\n"
    slow = "def f(x):\n  wait('hold')\n  execute('RPUSH', '{}', x['value']['n'])\nGB('StreamReader').foreach(f)"
    end = "def end():\n  execute('SET', 'ends', '1')\n  wait('ends')\n"
    programs.ask("SET", "hold", 1)
    programs.register(f"{wait}{end}{slow.format('old')}.register('s', onUnregistered=end)", "ID", "a")
    programs.register(f"{COLLECT}.register('s')", "ID", "b")
    add(programs, *range(100))
    programs.until("LRANGE", "out", 0, -1, is_=numbers(0, 100))
    with programs.server.wire() as other:
        other.send("RG.PYEXECUTE", f"{wait}{slow.format('new')}.register('s')", "ID", "a", "UPGRADE")
        programs.until("GET", "ends", is_=b"1")
        last = programs.ask("XADD", "s", "*", "n", "100")
        wait_for(lambda: any(last in group for group in programs.ask("XINFO", "GROUPS", "s")), what="b has run it")
        assert programs.ask("XLEN", "s") == 101
        programs.ask("DEL", "ends")
        assert other.read() == b"OK"
    programs.ask("DEL", "hold")
    programs.until("LRANGE", "new", 0, -1, is_=numbers(0, 101))
    programs.until("XLEN", "s", is_=0)


def start_anew(programs: Programs, waits: bool = True) -> None:
    """The flow process, as after each load of data. waits: until all code has run again."""
    pid = programs.figures()["pid"]
    assert programs.ask("DEBUG", "RELOAD") == b"OK"
    wait_for(lambda: programs.figures()["pid"] not in (pid, "0"))
    if waits:
        programs.ask("RG.PYSTATS")


def test_a_stream_made_anew(programs: Programs) -> None:
    programs.register(f"{COLLECT}.register('s', trimStream=False)")
    programs.ask("XADD", "s", "9-9", "n", "1")
    programs.until("LLEN", "out", is_=1)
    assert programs.ask("DEL", "s") == 1
    programs.ask("XADD", "s", "1-1", "n", "2")
    programs.until("LRANGE", "out", 0, -1, is_=[b"1", b"2"])


FAILS = (
    "def f(x):\n  if x['value']['n'] == '1' and not execute('GET', 'fine'): raise ValueError('odd')\n"
    "  execute('RPUSH', 'out', x['value']['n'])\n"
)


def test_failures_continue(programs: Programs) -> None:
    name = programs.register(f"{FAILS}GB('StreamReader').foreach(f).register('s')")
    add(programs, 0, 1, 2)
    programs.until("LRANGE", "out", 0, -1, is_=[b"0", b"2"])
    wait_for(lambda: programs.counts(name)["numSuccess"] == 2)
    counts = programs.counts(name)
    assert (counts["numTriggered"], counts["numFailures"]) == (3, 1)
    assert counts["lastError"] == "ValueError: odd (line 2, in f)"


def test_failures_abort(programs: Programs) -> None:
    name = programs.register(f"{FAILS}GB('StreamReader').foreach(f).register('s', onFailedPolicy='abort')")
    add(programs, 0, 1, 2)
    programs.until_logged("runs no more entries of the stream 's'")
    assert programs.ask("LRANGE", "out", 0, -1) == [b"0"]
    assert programs.ask("XLEN", "s") == 2
    assert programs.counts(name)["numFailures"] == 1


def test_failures_retry(programs: Programs) -> None:
    name = programs.register(
        f"{FAILS}GB('StreamReader').foreach(f).register('s', onFailedPolicy='retry', onFailedRetryInterval=0.02)"
    )
    add(programs, 0, 1, 2)
    wait_for(lambda: programs.counts(name)["numFailures"] > 2)
    assert programs.ask("LRANGE", "out", 0, -1) == [b"0"]
    programs.ask("SET", "fine", "1")
    programs.until("LRANGE", "out", 0, -1, is_=numbers(0, 3))


def test_run_over_entries(programs: Programs) -> None:
    add(programs, *range(3))
    add(programs, 7, key="s2")
    code = "GB('StreamReader').map(lambda x: x['value']['n'])"
    assert programs.run(f"{code}.run('s')") == ["0", "1", "2"]
    assert programs.run(f"{code}.count().run('s*')") == ["4"]
    assert programs.run(f"{code}.run('none')") == []


def test_another_database(programs: Programs) -> None:
    programs.wire.ask_ok("SELECT", 2)
    programs.register(f"{COLLECT}.register('s')")
    add(programs, 1)
    programs.until("LLEN", "out", is_=1)
    programs.wire.ask_ok("SELECT", 0)
    add(programs, 2)
    assert programs.ask("EXISTS", "out") == 0


def test_large_entries(programs: Programs) -> None:
    """They are read some at a time: a reply of all would not pass this limit."""
    for number in range(150):
        programs.ask("XADD", "large", "*", "a", bytes(100_000) + b"%d" % number)
    limit = programs.ask("CONFIG", "GET", "client-output-buffer-limit")[1]
    programs.ask("CONFIG", "SET", "client-output-buffer-limit", "normal 8mb 8mb 1")
    programs.register("GB('StreamReader').foreach(lambda x: execute('INCR', 'read')).register('large')")
    programs.until("XLEN", "large", is_=0)
    programs.ask("CONFIG", "SET", "client-output-buffer-limit", limit)
    assert programs.ask("GET", "read") == b"150"
