"""GearsBuilder and gearsCtx: what run() and register() take and return."""

from __future__ import annotations

import pytest

from tests.flows.programs import Programs

NUMBERS = "GB('PythonReader', defaultArg=lambda: range(5))"


def test_nothing_to_run_over(programs: Programs) -> None:
    assert programs.execute("GearsBuilder().run()") == [[], []]


def test_results_are_texts(programs: Programs) -> None:
    assert programs.run(f"{NUMBERS}.map(lambda x: [x, 'ä']).limit(1).run()") == ["[0, 'ä']"]


def test_results_as_they_are(programs: Programs) -> None:
    code = "['t', b'\\xff', 7, -1.5, None, [1, ['x']], {'k': 1}, (1,), True, 2**70]"
    (results, errors) = programs.execute(f"GB('PythonReader').run(lambda: {code}, convertToStr=False)")
    assert errors == []
    assert results == [b"t", b"\xff", 7, b"-1.5", None, [1, [b"x"]], b'{"k": 1}', [1], 1, str(2**70).encode()]


def test_gears_ctx_adds_no_steps(programs: Programs) -> None:
    assert programs.execute("gearsCtx('PythonReader').run(lambda: [1, 'x'])") == [[1, b"x"], []]


def test_a_builder_is_changed_by_its_methods(programs: Programs) -> None:
    code = f"b = {NUMBERS}\nb.map(lambda x: x + 1)\nb.filter(lambda x: x > 3)\nb.run()"
    assert programs.run(code) == ["4", "5"]


def test_the_module_redisgears(programs: Programs) -> None:
    code = "import redisgears\nfrom redisgears import executeCommand as e\n"
    assert programs.run(f"{code}redisgears.GB('ShardsIDReader').map(lambda x: e('ECHO', 'hi')).run()") == ["hi"]
    assert programs.run("GB('ShardsIDReader').map(lambda x: redisgears.execute('ECHO', 'hi')).run()") == ["hi"]


def test_mistakes_are_named(programs: Programs) -> None:
    assert "there is no reader 'Keys'" in programs.refused("GB('Keys')")
    assert "map() needs a function, not int" in programs.refused("GB().map(1)")
    assert "called once" in programs.refused("GB().run()\nGB().run()")
    assert "CommandReader has nothing to run over" in programs.refused("GB('CommandReader').run()")
    assert "PythonReader has no events" in programs.refused("GB('PythonReader').register()")
    assert "does not know the word 'prefx'" in programs.refused("GB('StreamReader').register(prefx='x')")
    assert "batch= of StreamReader" in programs.refused("GB('StreamReader').register(batch=0)")
    assert "onFailedPolicy= of StreamReader is one of" in programs.refused(
        "GB('StreamReader').register(onFailedPolicy='x')"
    )
    assert "trigger= or hook=" in programs.refused("GB('CommandReader').register()")
    assert "onRegistered= of KeysReader is a function" in programs.refused("GB().register(onRegistered=1)")
    assert programs.registrations() == []


def test_run_in_a_step(programs: Programs) -> None:
    _, (error,) = programs.execute(f"{NUMBERS}.limit(1).map(lambda x: GB().run()).run()")
    assert b"run() is for the code of RG.PYEXECUTE itself" in error


def test_errors_name_the_line(programs: Programs) -> None:
    assert programs.refused("x = 1\n\ny = x / 0") == "ERR ZeroDivisionError: division by zero (line 3, in <module>)"
    assert programs.refused("def f(:") == "ERR SyntaxError: invalid syntax (line 1)"
    results, errors = programs.execute(f"def half(x):\n  return 1 / x\n{NUMBERS}.map(half).count().run()")
    assert (results, errors) == ([b"4"], [b"ZeroDivisionError: division by zero (line 2, in half)"])


@pytest.mark.parametrize("mode", ["async", "async_local", "sync"])
def test_modes(programs: Programs, mode: str) -> None:
    """All run in the flow process, after the command that caused the event."""
    name = programs.register(f"GB('CommandReader').map(lambda x: x[1]).register(trigger='t', mode={mode!r})")
    assert programs.counts(name)["mode"] == mode
    assert programs.trigger("t", "x") == [b"x"]
