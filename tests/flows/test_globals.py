"""What the code of flows may call: execute, log, atomic, settings, futures, tags."""

from __future__ import annotations

from testkit.wire import Error
from tests.flows.programs import Programs

ONE = "GB('ShardsIDReader')"


def test_execute(programs: Programs) -> None:
    code = """
def f(x):
    execute('SET', 'a', b'\\xff')
    execute('RPUSH', 'l', 1, 1.5, 'ä', b'x', bytearray(b'y'))
    commands = ['GET', 'a'], ['LRANGE', 'l', 0, -1], ['GET', 'none'], ['PING'], ['INCR', 'n']
    return [execute(*words) for words in commands]
"""
    assert programs.run(f"{code}{ONE}.map(f).run()") == [
        "[bytearray(b'\\xff'), ['1', '1.5', 'ä', 'x', 'y'], None, 'PONG', 1]"
    ]


def test_execute_raises_error_replies(programs: Programs) -> None:
    code = "def f(x):\n  try: execute('INCR', 'l', 'x')\n  except Exception as e: return str(e)\n"
    (text,) = programs.run(f"{code}{ONE}.map(f).run()")
    assert text == "ERR wrong number of arguments for 'incr' command"


def test_log(programs: Programs) -> None:
    programs.execute("log('one'); log('two', level='warning'); log(3, 'debug'); print('four'); print('fi', 've')")
    for text in ("flows: one", "flows: two", "flows: four", "flows: fi ve"):
        programs.until_logged(text)
    assert "# <ai> flows: two" in programs.server.log()
    assert "log() knows the levels" in programs.refused("log('x', level='loud')")


def test_atomic(programs: Programs) -> None:
    """No other command is between two of a block; replicas get them as one transaction."""
    programs.register(
        "def f(x):\n  with atomic():\n    n = execute('INCR', 'n')\n    for _ in range(20): execute('GET', 'n')\n"
        "    return [n, int(execute('GET', 'n'))]\n"
        "async def g(x): return f(x)\n"
        "GB('CommandReader').map(f).register(trigger='t', convertToStr=False)\n"
        "GB('CommandReader').map(g).register(trigger='u', convertToStr=False)"
    )
    wires = [programs.server.wire() for _ in range(4)]
    for _ in range(10):
        for number, wire in enumerate(wires):
            wire.send("RG.TRIGGER", "tu"[number % 2])
        for wire in wires:
            ((first, last),) = wire.read()
            assert first == last
    assert programs.ask("GET", "n") == b"40"


def test_atomic_blocks_end(programs: Programs) -> None:
    """By an error in them, and by their time; commands in them may fail."""
    code = "def f(x):\n  with atomic():\n    execute('SET', 'a', 1)\n    1/0\n"
    assert b"ZeroDivisionError" in programs.execute(f"{code}{ONE}.map(f).run()")[1][0]
    assert programs.ask("GET", "a") == b"1"
    code = "import time\ndef f(x):\n  with atomic():\n    time.sleep(0.2)\n    execute('SET', 'b', 1)\n"
    assert b"the atomic block took longer" in programs.execute(f"{code}{ONE}.map(f).run()")[1][0]
    assert programs.ask("GET", "b") is None
    code = (
        "def f(x):\n  with atomic():\n    try: execute('INCR', 'a', 'x')\n"
        "    except Exception: return execute('INCR', 'a')\n"
    )
    assert programs.run(f"{code}{ONE}.map(f).run()") == ["2"]
    assert (
        b"within another"
        in programs.execute(f"def f(x):\n  with atomic():\n    with atomic(): pass\n{ONE}.map(f).run()")[1][0]
    )
    assert programs.run(f"{ONE}.map(lambda x: execute('GET', 'a')).run()") == ["2"]


def test_settings(programs: Programs) -> None:
    assert programs.run(f"{ONE}.map(lambda x: configGet('maxmemory') + gearsConfigGet('odd', 'no')).run()") == ["0no"]


def test_tags(programs: Programs) -> None:
    assert programs.run(f"{ONE}.map(lambda x: hashtag() + hashtag3()).run()") == ["06S06S"]


def test_futures(programs: Programs) -> None:
    code = """
import threading
async def f(x):
    future = gearsFuture()
    threading.Thread(target=lambda: future.continueRun(execute('ECHO', 'from a thread'))).start()
    return await future
async def g(x):
    future = gearsFuture()
    threading.Thread(target=lambda: future.continueFailed('failed')).start()
    return await future
"""
    assert programs.run(f"{code}{ONE}.map(f).run()") == ["from a thread"]
    assert programs.execute(f"{code}{ONE}.map(g).run()")[1][0].startswith(b"Exception: failed")


def test_statistics(programs: Programs) -> None:
    stats = programs.named(programs.ask("RG.PYSTATS"))
    assert 0 < stats["CurrAllocated"] <= stats["PeakAllocated"]
    assert programs.ask("RG.INFOCLUSTER") == b"no cluster mode"
    assert programs.ask("RG.REFRESHCLUSTER") == b"OK"
    assert isinstance(programs.ask("RG.UNREGISTER"), Error)


def test_nested_code(programs: Programs) -> None:
    inner = "GB('CommandReader').map(lambda x: 'inner').register(trigger='i')"
    assert programs.run(f"{ONE}.map(lambda x: execute('RG.PYEXECUTE', {inner!r})).run()") == ["OK"]
    assert programs.run(f"{ONE}.map(lambda x: execute('RG.TRIGGER', 'i')).run()") == ["['inner']"]
