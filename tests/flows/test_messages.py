"""Commands, events and the flow process: who gets what, and what is refused."""

from __future__ import annotations

from testkit.wire import Wire
from tests.flows.kit import Process


def test_a_command_and_its_answer(flows: Process, wire: Wire) -> None:
    wire.ask_ok("SELECT", 3)
    wire.send("rg.trigger", "name", b"\x00\xff", "")
    ((kind, number, user, db, *words),) = flows.next()
    assert (kind, user, db, words) == (b"command", b"default", 3, [b"RG.TRIGGER", b"name", b"\x00\xff", b""])
    flows.reply(number, "*4", "$\x00\r\n", ":-5", "+fine", "*2", "_", "-ODD one")
    assert wire.read() == [b"\x00\r\n", -5, b"fine", [None, "ODD one"]]
    flows.reply(number, "+again")  # nobody waits any more
