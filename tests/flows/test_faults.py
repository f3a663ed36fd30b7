"""Careless and hostile flows: each fails by itself."""

from __future__ import annotations

import pytest

from testkit.server import module_path
from testkit.waiting import wait_for
from testkit.wire import Error
from tests.conftest import StartServer
from tests.flows.kit import FLOWS
from tests.flows.programs import Programs
from tests.flows.test_process import is_gone

NASTY = """
class Mute(Exception):
    def __str__(self): raise self
class Base(BaseException): pass
class Thing:
    def __del__(self): raise ValueError('gone')
    def __repr__(self): raise ValueError('no text')
"""


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise Mute", "Mute: its text cannot be had"),
        ("raise Base('x')", "Base: x"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise StopIteration", "StopIteration"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ("f(x)", "RecursionError"),
        ("return Thing()", "ValueError: no text"),
        ("open('/no/such')", "FileNotFoundError"),
        ("execute()", "TypeError"),
        ("execute('')", "CommandError: ERR"),
        ("execute('GET')", "CommandError: ERR wrong number"),
        ("execute('RG._FLOW', 'x', 'y')", "CommandError: NOPERM"),
        ("execute('RG._PROCESS', 'NEXT')", "CommandError: NOPERM"),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_errors_are_of_the_record(programs: Programs, code: str, error: str, kind: str) -> None:
    if kind == "async def" and code in ("f(x)", "raise StopIteration"):
        pytest.skip("Python itself makes something else of it")
    pid = programs.figures()["pid"]
    text = f"{NASTY}\n{kind} f(x):\n  {code}\nGB('PythonReader').map(f).run(lambda: [1])"
    results, (told,) = programs.execute(text)
    assert results == []
    assert told.decode().startswith(error), told
    assert programs.figures()["pid"] == pid


def test_errors_anywhere(programs: Programs) -> None:
    assert programs.refused(f"{NASTY}raise Mute").startswith("ERR Mute: its text cannot be had")
    assert "SystemExit" in programs.refused("import sys; sys.exit()")
    assert programs.execute("GB('PythonReader').run(lambda: (1 // n for n in (1, 0)))")[0] == [b"1"]
    assert b"ZeroDivisionError" in programs.execute("GB('PythonReader').run(lambda: (1 // n for n in (1, 0)))")[1][0]
    assert b"TypeError" in programs.execute("GB('PythonReader').sort().run(lambda: [1, 'a'])")[1][0]
    assert b"TypeError" in programs.execute("GB('PythonReader').distinct().run(lambda: [[]])")[1][0]
    assert (
        b"ValueError" in programs.execute(f"{NASTY}GB('PythonReader').run(lambda: [Thing()], convertToStr=False)")[1][0]
    )
    looped = "x = []\nx.append(x)\nGB('PythonReader').run(lambda: [x], convertToStr=False)"
    assert b"lists within lists" in programs.execute(looped)[1][0]


def test_odd_texts(programs: Programs) -> None:
    code = "GB('PythonReader').run(lambda: ['\\ud800', '\\udcff', '\\0\\r\\n'])"
    assert programs.execute(code) == [[b"\\ud800", b"\xff", b"\0\r\n"], []]
    assert "'\\udcff'" in programs.refused("raise ValueError('\\'\\\\udcff\\'')")


def test_much_output(programs: Programs) -> None:
    """10 MB each: printed, returned, raised."""
    programs.execute("print('p' * 10_000_000)\nprint('line\\n' * 1_000_000)")
    programs.until_logged("lines of output were dropped")
    longest = max(map(len, programs.server.log().splitlines()))
    assert longest < 1_200
    (text,) = programs.run("GB('ShardsIDReader').map(lambda x: 'r' * 10_000_000).run()")
    assert len(text) == 10_000_000
    assert len(programs.refused("raise ValueError('e' * 10_000_000)")) < 5_000
    failing = "def f(x): raise ValueError('e' * 10_000_000)\nGB('ShardsIDReader').map(f).run()"
    assert len(programs.execute(failing)[1][0]) < 5_000


def test_the_process_ends(programs: Programs) -> None:
    """os._exit: the client is told, and the flows come back."""
    programs.register("import os\nGB('CommandReader').map(lambda x: os._exit(3)).register(trigger='end')")
    assert programs.trigger("end") == Error("ERR the flow process ended: exit status 3; see the server's log")
    wait_for(lambda: programs.ask("RG.PYSTATS")[0] == b"TotalAllocated")
    assert len(programs.registrations()) == 1


def test_closed_connections(programs: Programs) -> None:
    """CLIENT KILL TYPE normal closes all connections of the process, those that it waits on, too."""
    programs.register("GB('CommandReader').map(lambda x: execute('ECHO', x[1])).register(trigger='t')")
    programs.register("async def f(x): return execute('ECHO', 'a')\nGB('CommandReader').map(f).register(trigger='u')")
    assert programs.trigger("t", "a") == [b"a"]
    for _ in range(3):
        programs.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert programs.trigger("t", "b") == [b"b"]
        assert programs.trigger("u") == [b"a"]


def test_replies_that_the_server_does_not_take(programs: Programs) -> None:
    """It closes the connection; the client is told."""
    programs.ask("CONFIG", "SET", "client-query-buffer-limit", "1mb")
    try:
        reply = programs.execute("GB('ShardsIDReader').map(lambda x: 'r' * 3_000_000).run()")
        assert str(reply).startswith("ERR the reply was not sent: ")
    finally:
        programs.ask("CONFIG", "SET", "client-query-buffer-limit", "1gb")


def test_a_user_that_is_gone(programs: Programs) -> None:
    programs.ask("ACL", "SETUSER", "flower", "on", "nopass", "+@all", "~*", "&*")
    with programs.server.wire() as wire:
        wire.ask_ok("AUTH", "flower", "x")
        wire.ask_ok("RG.PYEXECUTE", "GB('CommandReader').map(lambda x: execute('SET', 'a', 'b')).register(trigger='t')")
    assert programs.trigger("t") == [b"OK"]
    programs.ask("ACL", "SETUSER", "flower", "-set")
    assert "NOPERM" in programs.trigger("t")
    programs.ask("ACL", "DELUSER", "flower")
    assert "the user 'flower'" in programs.trigger("t")


def test_memory(start_server: StartServer) -> None:
    """A flow that takes too much gets MemoryError; others go on."""
    server = start_server(options=[*FLOWS, "FLOWS_MEMORY_LIMIT", 600], module=module_path())
    with Programs(server) as programs:
        programs.register("GB('CommandReader').map(lambda x: len(bytearray(1 << 30))).register(trigger='big')")
        assert programs.trigger("big").startswith("ERR MemoryError")
        assert programs.run("GB('ShardsIDReader').map(lambda x: 1).run()") == ["1"]
        assert programs.figures()["starts"] == "1"


def test_records_that_are_changed(programs: Programs) -> None:
    code = "def f(x):\n  x.append(len(x))\n  return x\none = []\n"
    assert programs.run(f"{code}GB('PythonReader').map(f).map(f).run(lambda: [one])") == ["[0, 1]"]


def test_replies_of_too_many_values(programs: Programs) -> None:
    code = "GB('PythonReader').map(lambda x: [0] * (1 << 20)).run(lambda: [1], convertToStr=False)"
    assert programs.refused(code) == "ERR the reply has more than 1,048,576 values"


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_forks(programs: Programs, kind: str) -> None:
    """A child that goes on as the flow process ends, and answers nobody."""
    programs.register(f"import os\n{kind} f(x): return os.fork()\nGB('CommandReader').map(f).register(trigger='fork')")
    (child,) = programs.trigger("fork")
    assert int(child) > 0
    wait_for(lambda: is_gone(int(child)), what="the child has ended")


def test_closed_files(start_server: StartServer) -> None:
    """The process that has lost its socket to the server ends, and another one serves."""
    with Programs(start_server(options=FLOWS, module=module_path())) as programs:
        programs.register("GB('CommandReader').map(lambda x: 1).register(trigger='t')")
        pid = programs.figures()["pid"]
        programs.execute("import os\nos.closerange(3, 1_000)")
        wait_for(lambda: programs.figures()["pid"] not in ("0", pid), what="another process")
        assert programs.trigger("t") == [b"1"]


def test_commands_that_change_the_connection(programs: Programs) -> None:
    """Other flows use it, too."""
    register = "GB('CommandReader').map({0}).register(trigger='{0}')\n"
    code = "def f(x): return execute(*x[1:])\nasync def g(x): return f(x)\n"
    programs.register(code + register.format("f") + register.format("g"))
    for words in ("SELECT 3", "multi", "RESET", "SUBSCRIBE x", "MONITOR", "client reply off", "PSYNC ? -1", "QUIT"):
        for trigger in "fg":
            assert "cannot be called from a flow" in programs.trigger(trigger, *words.split())
    assert programs.trigger("f", "SET", "a", "b") == [b"OK"]
    assert programs.ask("GET", "a") == b"b"
