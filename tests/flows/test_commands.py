"""CommandReader: RG.TRIGGER, and commands that flows hook."""

from __future__ import annotations

import threading

import pytest

from testkit.waiting import wait_for
from testkit.wire import Error
from tests.flows.programs import Programs


def test_a_trigger(programs: Programs) -> None:
    name = programs.register("GB('CommandReader').register(trigger='t')")
    assert programs.trigger("t", "a", b"\xff", "") == [b"['t', 'a', b'\\xff', '']"]
    assert programs.counts(name)["numTriggered"] == programs.counts(name)["numSuccess"] == 1


def test_the_first_error_is_the_reply(programs: Programs) -> None:
    name = programs.register(
        "def fail(x): raise ValueError(f'no {x}\\r\\nline')\n"
        "GB('CommandReader').flatmap(lambda x: x[1:]).map(fail).register(trigger='t')"
    )
    assert programs.trigger("t", "a", "b") == Error("ERR ValueError: no a line (line 1, in fail)")
    assert programs.counts(name)["numFailures"] == 1
    assert programs.counts(name)["lastError"].startswith("ValueError: no a")


def test_how_long_it_takes(programs: Programs) -> None:
    name = programs.register("import time\nGB('CommandReader').map(lambda x: time.sleep(0.02)).register(trigger='t')")
    assert float(programs.counts(name)["avgRunDurationMS"]) == 0
    for _ in range(3):
        programs.trigger("t")
    counts = programs.counts(name)
    last, mean, total = (float(counts[f"{each}RunDurationMS"]) for each in ("last", "avg", "total"))
    assert min(last, mean) >= 20 and total == pytest.approx(3 * mean, abs=0.01) and total >= 60


def test_unknown_triggers(programs: Programs) -> None:
    assert "no flow is registered for the trigger 'x'" in programs.trigger("x")
    assert "wrong number of arguments" in programs.trigger()


def test_a_trigger_belongs_to_one_flow(programs: Programs) -> None:
    name = programs.register("GB('CommandReader').register(trigger='t')")
    assert f"the trigger 't' is registered already, as {name}" in programs.refused(
        "GB('CommandReader').register(trigger='t')"
    )
    twice = "GB('CommandReader').register(trigger='u')\n" * 2
    assert "registered twice in this code" in programs.refused(twice)
    assert programs.ask("RG.UNREGISTER", name) == b"OK"
    assert "no flow" in programs.trigger("t")
    programs.register("GB('CommandReader').register(trigger='t')")


def test_globals_persist(programs: Programs) -> None:
    programs.register(
        "n = 0\ndef more(x):\n  global n\n  n += 1\n  return n\n"
        "GB('CommandReader').map(more).register(trigger='t', convertToStr=False)"
    )
    assert [programs.trigger("t") for _ in range(3)] == [[1], [2], [3]]


def test_in_order(programs: Programs) -> None:
    """The first waits for a future that the test completes; the second would overtake it."""
    programs.register(
        "seen, first = [], createFuture()\n"
        "async def f(x):\n"
        "  if x[1] == '1': await first\n"
        "  seen.append(x[1])\n"
        "  return ''.join(seen)\n"
        "GB('CommandReader').map(f).register(trigger='t', inorder=True)\n"
        "GB('CommandReader').foreach(lambda x: first.continueRun()).register(trigger='go')"
    )
    with programs.server.wire() as one, programs.server.wire() as two:
        one.send("RG.TRIGGER", "t", 1)
        wait_for(lambda: programs.registrations()[0]["data"]["numTriggered"] == 1)
        two.send("RG.TRIGGER", "t", 2)
        programs.trigger("go")
        assert (one.read(), two.read()) == ([b"1"], [b"12"])


def test_a_flow_that_triggers_itself(programs: Programs) -> None:
    """Deeper than a flow may have threads of its own at once."""
    programs.register(
        "def down(x):\n  n = int(x[1])\n  return execute('RG.TRIGGER', 't', n - 1)[0] + 'x' if n else ''\n"
        "GB('CommandReader').map(down).register(trigger='t')"
    )
    assert programs.trigger("t", 40) == [b"x" * 40]


def test_no_trigger_in_async_functions(programs: Programs) -> None:
    programs.register(
        "async def f(x): return execute('RG.TRIGGER', 'u')\nGB('CommandReader').map(f).register(trigger='t')"
    )
    assert "in an async function would wait for itself" in programs.trigger("t")


def test_a_hook(programs: Programs) -> None:
    name = programs.register(
        "GB('CommandReader').map(lambda x: call_next(x[1], x[2] + '!'))"
        ".register(hook='set', keyprefix='a', convertToStr=False)"
    )
    assert programs.ask("SET", "ab", "v") == b"OK"
    assert programs.ask("SET", "b", "v") == b"OK"
    assert programs.ask("MGET", "ab", "b") == [b"v!", b"v"]
    assert programs.ask("RG.UNREGISTER", name) == b"OK"
    assert programs.ask("SET", "ab", "w") == b"OK"
    assert programs.ask("GET", "ab") == b"w"


def test_many_clients(programs: Programs) -> None:
    programs.register("GB('CommandReader').map(lambda x: execute('INCRBY', 'n', x[1])).register(trigger='t')")

    def client() -> None:
        with programs.server.wire() as wire:
            for _ in range(50):
                assert len(wire.ask("RG.TRIGGER", "t", 1)) == 1

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert programs.ask("GET", "n") == b"400"
