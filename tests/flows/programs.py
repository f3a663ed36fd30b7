"""Runs flows on a server, as a client does."""

from __future__ import annotations

from typing import Any

from testkit.info import module_sections
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Word


class Programs:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.wire = server.wire()

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def ask(self, *words: Word) -> Any:
        return self.wire.ask(*words)

    def execute(self, code: str, *words: Word) -> Any:
        return self.ask("RG.PYEXECUTE", code, *words)

    def register(self, code: str, *words: Word) -> str:
        """The id of what it registers last."""
        assert self.execute(code, *words) == b"OK"
        return str(self.registrations()[-1]["id"])

    def run(self, code: str) -> list[str]:
        """The results of a flow without errors."""
        results, errors = self.execute(code)
        assert errors == []
        return [each.decode() for each in results]

    def refused(self, code: str, *words: Word) -> str:
        reply = self.execute(code, *words)
        assert isinstance(reply, Error), reply
        return str(reply)

    def trigger(self, *words: Word) -> Any:
        return self.ask("RG.TRIGGER", *words)

    def named(self, reply: Any) -> dict[str, Any]:
        """Names and values of a flat reply."""
        names = (name.decode() for name in reply[::2])
        return {name: _plain(value) for name, value in zip(names, reply[1::2], strict=True)}

    def registrations(self) -> list[dict[str, Any]]:
        found = [self.named(each) for each in self.ask("RG.DUMPREGISTRATIONS")]
        for each in found:
            each["data"] = self.named(each["RegistrationData"])
        return found

    def counts(self, name: str) -> dict[str, Any]:
        (found,) = (each["data"] for each in self.registrations() if each["id"] == name)
        return dict(found)

    def unregister_all(self) -> None:
        for each in self.registrations():
            self.ask("RG.UNREGISTER", each["id"])

    def figures(self) -> dict[str, str]:
        return module_sections(self.wire, "MODULES")["flows"]

    def until(self, *words: Word, is_: Any) -> None:
        """Waits until a command replies this."""
        wait_for(lambda: self.ask(*words) == is_, 10, f"{words} replies {is_}")

    def until_logged(self, text: str) -> None:
        wait_for(lambda: text in self.server.log(), 10, f"the log has {text!r}")


def _plain(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
