"""Executions: UNBLOCKING, results, abort, flows that never end."""

from __future__ import annotations

import pytest

from testkit.waiting import wait_for
from testkit.wire import Error
from tests.flows.programs import Programs

ENDLESS = "def f(x):\n  while True: pass\n"
# Each with what ends it: nothing but an abort.
STUCK = {
    "loop": ENDLESS,
    "caught": "def f(x):\n  while True:\n    try:\n      while True: pass\n    except Exception: pass\n",
    "blocked": "def f(x): return execute('BLPOP', 'none', 0)\n",
    "awaits": "async def f(x): await createFuture()\n",
    "async loop": "async def f(x):\n  while True: pass\n",
}


def executions(programs: Programs) -> dict[str, str]:
    rows = [programs.named(row) for row in programs.ask("RG.DUMPEXECUTIONS")]
    return {str(row["executionId"]): str(row["status"]) for row in rows}


def test_unblocking(programs: Programs) -> None:
    name = programs.execute("GB('PythonReader').run(lambda: [1, 2])", "UNBLOCKING").decode()
    assert programs.ask("RG.GETRESULTSBLOCKING", name) == [[b"1", b"2"], []]
    assert programs.ask("RG.GETRESULTS", name) == [[b"1", b"2"], []]
    assert executions(programs)[name] == "done"
    ((_, _, _, plan),) = programs.ask("RG.GETEXECUTION", name)
    shown = programs.named(plan)
    assert (shown["status"], shown["results"], shown["errors"]) == ("done", 2, [])
    assert shown["steps"] == [[b"type", b"map", b"duration", 0, b"name", b"map", b"arg", b""]]
    assert programs.ask("RG.DROPEXECUTION", name) == b"OK"
    for command in ("GETRESULTS", "GETRESULTSBLOCKING", "GETEXECUTION", "DROPEXECUTION", "ABORTEXECUTION"):
        assert f"there is no execution '{name}'" in programs.ask(f"RG.{command}", name)


@pytest.mark.parametrize("kind", list(STUCK))
def test_abort(programs: Programs, kind: str) -> None:
    """Others run meanwhile, and the process goes on."""
    pid = programs.figures()["pid"]
    name = programs.execute(f"{STUCK[kind]}GB('ShardsIDReader').map(f).run()", "UNBLOCKING").decode()
    wait_for(lambda: executions(programs)[name] == "running")
    assert "is still running" in programs.ask("RG.GETRESULTS", name)
    assert "is still running" in programs.ask("RG.DROPEXECUTION", name)
    assert programs.run("GB('PythonReader').map(lambda x: x).run(lambda: [1])") == ["1"]
    with programs.server.wire() as waits:
        waits.send("RG.GETRESULTSBLOCKING", name)
        assert programs.ask("RG.ABORTEXECUTION", name) == b"OK"
        assert waits.read() == [[], [b"the execution was aborted"]]
    assert executions(programs)[name] == "aborted"
    assert "has ended already" in programs.ask("RG.ABORTEXECUTION", name)
    assert programs.run("async def f(x): return x\nGB('PythonReader').map(f).run(lambda: [1])") == ["1"]
    assert programs.figures()["pid"] == pid


def test_stuck_flows_stop_no_others(programs: Programs) -> None:
    """More of them than a flow may have threads."""
    stuck = programs.register(f"{ENDLESS}GB('CommandReader').map(f).register(trigger='stuck')")
    programs.register("GB('CommandReader').map(lambda x: 'fine').register(trigger='t')")
    wires = [programs.server.wire() for _ in range(3)]
    for wire in wires:
        wire.send("RG.TRIGGER", "stuck")
    wait_for(lambda: programs.counts(stuck)["numTriggered"] == len(wires))
    assert programs.trigger("t") == [b"fine"]
    for name, status in executions(programs).items():
        if status in ("running", "created"):
            programs.ask("RG.ABORTEXECUTION", name)
    for wire in wires:
        assert wire.read() == Error("ERR the execution was aborted")
        wire.close()
    assert programs.counts(stuck)["numAborted"] == len(wires)


def test_code_that_never_ends_can_be_aborted(programs: Programs) -> None:
    with programs.server.wire() as wire:
        wire.send("RG.PYEXECUTE", "while True: pass")
        wait_for(lambda: "running" in executions(programs).values())
        (name,) = (name for name, status in executions(programs).items() if status == "running")
        assert programs.ask("RG.ABORTEXECUTION", name) == b"OK"
        assert wire.read() == Error("ERR the execution was aborted")


@pytest.mark.parametrize(("code", "results"), [("go.wait()", [[], []]), ("go.wait()\n1/0", None)])
def test_waiting_for_code_that_runs_nothing(programs: Programs, code: str, results: object) -> None:
    """Such an execution is forgotten at its end."""
    programs.execute("import threading, sys\nsys.go = threading.Event()")
    with programs.server.wire() as runs, programs.server.wire() as waits:
        runs.send("RG.PYEXECUTE", f"import sys\ngo = sys.go\n{code}")
        wait_for(lambda: "running" in executions(programs).values())
        (name,) = (name for name, status in executions(programs).items() if status == "running")
        waits.send("RG.GETRESULTSBLOCKING", name)
        assert programs.execute("import sys\nsys.go.set()") == b"OK"
        reply = waits.read()
        assert reply == results or reply[1][0].startswith(b"ZeroDivisionError")
        runs.read()


def test_unregister_while_it_runs(programs: Programs) -> None:
    name = programs.register(
        "go = createFuture()\nasync def f(x): return await go\n"
        "GB('CommandReader').map(f).register(trigger='t')\n"
        "GB('CommandReader').foreach(lambda x: go.continueRun('went')).register(trigger='go')"
    )
    name = str(programs.registrations()[0]["id"])
    with programs.server.wire() as wire:
        wire.send("RG.TRIGGER", "t")
        wait_for(lambda: programs.counts(name)["numTriggered"] == 1)
        assert programs.ask("RG.UNREGISTER", name) == b"OK"
        programs.trigger("go")
        assert wire.read() == [b"went"]


def test_the_last_thousand_are_kept(programs: Programs) -> None:
    programs.register("GB('CommandReader').register(trigger='t')")
    for _ in range(1_010):
        programs.wire.send("RG.TRIGGER", "t")
    for _ in range(1_010):
        programs.wire.read()
    assert len(executions(programs)) == 1_000


@pytest.mark.parametrize("how", ["while True: pass", "execute('BLPOP', 'none', 0)"])
def test_an_async_function_that_never_awaits(programs: Programs, how: str) -> None:
    """It is stopped, since it holds up all others."""
    programs.register(
        f"async def f(x):\n  {how}\nasync def g(x): return 'fine'\n"
        "GB('CommandReader').map(f).register(trigger='stuck')\nGB('CommandReader').map(g).register(trigger='t')"
    )
    with programs.server.wire() as wire:
        wire.send("RG.TRIGGER", "stuck")
        wait_for(lambda: "running" in executions(programs).values())
        assert programs.trigger("t") == [b"fine"]
        assert "without an await" in wire.read()
