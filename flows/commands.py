"""The commands RG.*: their words, and their replies."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable
from typing import Any

from flows.connections import CommandError, ConnectionLost, Settings
from flows.executions import Execution
from flows.readers.commands import array
from flows.registrations import Registration
from flows.replies import complain, describe, error_token, tokens
from flows.server import Actor, Control
from flows.sessions import RESTS, FlowError, Session, Sessions, start

Answer = Callable[[list[bytes]], None]
OK = [b"+OK"]
MAX_REPLY_BYTES = 256 << 20
MAX_REPLY_VALUES = 1 << 20  # the server makes the reply in one go: others wait as long


def _pairs(*words: Any) -> list[bytes]:
    return tokens(list(words))


class Commands:
    """The main thread calls run(); what may take long is done elsewhere."""

    def __init__(self, sessions: Sessions, control: Control, settings: Settings) -> None:
        self._sessions = sessions
        self._runtime = sessions.runtime
        self._control = control
        self._settings = settings
        self._commands: dict[bytes, Callable[[Actor, list[str], Answer], list[bytes] | None]] = {
            b"RG.PYEXECUTE": self._pyexecute,
            b"RG.DUMPREGISTRATIONS": self._dumpregistrations,
            b"RG.UNREGISTER": self._unregister,
            b"RG.DUMPEXECUTIONS": self._dumpexecutions,
            b"RG.GETEXECUTION": self._getexecution,
            b"RG.GETRESULTS": self._getresults,
            b"RG.GETRESULTSBLOCKING": self._getresultsblocking,
            b"RG.ABORTEXECUTION": self._abortexecution,
            b"RG.DROPEXECUTION": self._dropexecution,
            b"RG.PYDUMPREQS": self._pydumpreqs,
            b"RG.PYDUMPSESSIONS": self._pydumpsessions,
            b"RG.PYSTATS": self._pystats,
            b"RG.INFOCLUSTER": self._infocluster,
            b"RG.REFRESHCLUSTER": lambda actor, words, answer: OK,
        }

    def answer(self, request: int) -> Answer:
        def answer(reply: list[bytes]) -> None:
            if sum(map(len, reply)) > MAX_REPLY_BYTES:
                reply = [error_token(f"the reply is larger than {MAX_REPLY_BYTES >> 20} MB")]
            if len(reply) > MAX_REPLY_VALUES:
                reply = [error_token(f"the reply has more than {MAX_REPLY_VALUES:,} values")]
            try:
                self._control.say("RG._PROCESS", "REPLY", request, *reply)
            except CommandError as error:
                complain("a reply", error)
            except ConnectionLost as error:  # it may be above the server's client-query-buffer-limit
                complain("a reply", error)
                self._control.say("RG._PROCESS", "REPLY", request, error_token(f"the reply was not sent: {error}"))

        return answer

    def run(self, request: int, user: bytes, db: int, words: list[bytes]) -> None:
        answer = self.answer(request)
        if words[0] == b"RG.TRIGGER":
            if len(words) < 2:
                answer(_wrong_number(words))
                return
            reader = self._sessions.trigger(words[1])
            if reader is None:
                if self._sessions.rest:
                    answer([error_token(RESTS)])
                    return
                name = words[1].decode("utf-8", "replace")[:100]
                answer(
                    [error_token(f"no flow is registered for the trigger {name!r}: RG.DUMPREGISTRATIONS lists them")]
                )
                return
            reader.run(words[1:], answer)
            return
        command = self._commands.get(words[0])
        if command is None:
            answer([error_token(f"the flow process does not know {words[0].decode('utf-8', 'replace')[:100]!r}")])
            return
        try:
            actor = Actor(user.decode("utf-8", "surrogateescape"), db)
            reply = command(actor, [word.decode("utf-8", "surrogateescape") for word in words], answer)
        except Exception as error:
            reply = [_told(error)]
        if reply is not None:
            answer(reply)

    def hook(self, request: int, user: bytes, db: int, words: list[bytes]) -> None:
        answer = self.answer(request)
        reader = self._sessions.hook(words)
        if reader is not None:
            reader.run(words, answer)
            return
        # Its flow has just been unregistered.
        actor = Actor(user.decode("utf-8", "surrogateescape"), db)
        threading.Thread(target=self._pass_on, args=(actor, words, answer), daemon=True).start()

    def _pass_on(self, actor: Actor, words: list[bytes], answer: Answer) -> None:
        try:
            connection = self._runtime.server.connect(actor)
            try:
                answer(tokens(connection.call([b"RG._CALL", *words])))
            finally:
                connection.close()
        except Exception as error:
            answer([_told(error)])

    # ---- one by one

    def _pyexecute(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes] | None:
        if len(words) < 2:
            return _wrong_number([b"RG.PYEXECUTE"])
        texts: dict[str, str] = {}
        flags: set[str] = set()
        requirements: list[str] = []
        rest = words[2:]
        while rest:
            word = rest.pop(0).upper()
            if word in ("ID", "DESCRIPTION", "REPLACE_WITH"):
                if not rest:
                    raise FlowError(f"{word} needs a value")
                texts[word] = rest.pop(0)
            elif word in ("UNBLOCKING", "UPGRADE", "FORCE_REINSTALLATION"):
                flags.add(word)
            elif word == "REQUIREMENTS":
                requirements, rest = rest, []
            else:
                raise FlowError(f"RG.PYEXECUTE does not know the word {word[:100]!r}")
        name = texts.get("ID") or self._runtime.next_id()
        session = Session(self._sessions, name, actor, words[1], texts.get("DESCRIPTION"), requirements)
        replaced, upgrade, unblocking = texts.get("REPLACE_WITH"), "UPGRADE" in flags, "UNBLOCKING" in flags
        self._sessions.check_replaceable(name, upgrade, replaced)

        def done(execution: Execution | None, error: BaseException | None) -> None:
            if error is not None:
                answer([_told(error)])
            elif execution is None:
                answer(OK)
            elif unblocking:
                answer([b"$" + execution.id.encode()])
            else:
                answer(_results(execution))

        force = "FORCE_REINSTALLATION" in flags
        start(
            self._sessions, session, upgrade=upgrade, replaced=replaced, force=force, unblocking=unblocking, answer=done
        )
        return None

    def _dumpregistrations(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes]:
        return array([self._registration(each) for each in self._sessions.live()])

    def _registration(self, each: Registration) -> list[bytes]:
        args = [part for name, value in each.reader.args().items() for part in (name, value)]
        data = [
            *("mode", each.mode),
            *("numTriggered", each.triggered),
            *("numSuccess", each.successes),
            *("numFailures", each.failures),
            *("numAborted", each.aborted),
            *("lastError", each.last_error),
            *("args", args),
            *("lastRunDurationMS", round(1_000 * each.last_duration, 3)),
            *("avgRunDurationMS", round(1_000 * each.mean_duration, 3)),
            *("totalRunDurationMS", round(1_000 * each.total_duration, 3)),
        ]
        session = each.session
        private = {"sessionId": session.id, "user": session.actor.user, "db": session.actor.db}
        return _pairs(
            *("id", each.id),
            *("reader", each.reader.name),
            *("desc", each.description),
            *("RegistrationData", data),
            *("PD", str({**private, "depsList": session.requirements})),
        )

    def _unregister(self, actor: Actor, words: list[str], answer: Answer) -> None:
        name = _one(words)

        def work() -> None:
            """onUnregistered is the flow's."""
            try:
                self._sessions.unregister(name)
                answer(OK)
            except BaseException as error:
                answer([_told(error)])

        threading.Thread(target=work, daemon=True).start()

    def _execution(self, words: list[str]) -> Execution:
        name = _one(words)
        found = self._runtime.executions.get(name)
        if found is None:
            raise FlowError(f"there is no execution {name[:100]!r}: RG.DUMPEXECUTIONS lists the last ones")
        return found

    def _dumpexecutions(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes]:
        return array(
            [
                _pairs("executionId", each.id, "status", each.state, "registered", int(each.is_registered))
                for each in self._runtime.executions.latest()
            ]
        )

    def _getexecution(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes]:
        each = self._execution(words[:2])
        plan = [
            *("status", each.state),
            *("shards_received", 0),
            *("shards_completed", 0),
            *("results", len(each.results)),
            *("errors", list(each.errors)),
            *("total_duration", int(each.duration * 1_000)),
            *("read_duration", 0),
            "steps",
            [["type", step.name, "duration", 0, "name", step.name, "arg", ""] for step in each.owner.steps],
        ]
        return tokens([["shard_id", self._settings.get("node_id"), "execution_plan", plan]])

    def _getresults(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes]:
        found = self._execution(words)
        if not found.has_ended:
            raise FlowError("the execution is still running: RG.GETRESULTSBLOCKING waits for its end")
        return _results(found)

    def _getresultsblocking(self, actor: Actor, words: list[str], answer: Answer) -> None:
        self._runtime.executions.when_ended(self._execution(words).id, lambda ended: answer(_results(ended)))

    def _abortexecution(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes]:
        found = self._execution(words)
        if not found.abort():
            raise FlowError("the execution has ended already")
        return OK

    def _dropexecution(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes]:
        found = self._execution(words)
        if not found.has_ended:
            raise FlowError("the execution is still running: RG.ABORTEXECUTION ends it")
        self._runtime.executions.forget(found)
        return OK

    def _pydumpreqs(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes]:
        rows = self._sessions.requirements.dump()
        return tokens([[part for pair in row.items() for part in pair] for row in rows])

    def _pydumpsessions(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes]:
        rows = [
            [
                *("ID", each.id),
                *("sessionDescription", each.description),
                *("refCount", len(each.names())),
                *("linked", "true"),
                *("dead", "false" if each.error is None else "true"),
                *("user", each.actor.user),
                *("error", each.error),
                *("requirementInstallationNeeded", len(each.requirements)),
                *("registrations", each.names()),
            ]
            for each in list(self._sessions.sessions.values())
        ]
        return tokens(rows)

    def _pystats(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes]:
        """Of the whole process, in bytes."""
        with open("/proc/self/statm") as file:
            total, resident = (int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in file.read().split()[:2])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
        return _pairs("TotalAllocated", total, "PeakAllocated", max(peak, resident), "CurrAllocated", resident)

    def _infocluster(self, actor: Actor, words: list[str], answer: Answer) -> list[bytes]:
        try:
            slots = self._control.say("CLUSTER", "SLOTS")
            mine = self._control.say("CLUSTER", "MYID").decode()
        except CommandError:
            return [b"+no cluster mode"]
        shards = [
            [
                *("id", master[2]),
                *("ip", master[0]),
                *("port", master[1]),
                *("minHslot", first),
                *("maxHslot", last),
            ]
            for first, last, master, *_ in slots
        ]
        return _pairs("MyId", mine, "MyRunId", self._settings.get("node_id"), shards)


def _one(words: list[str]) -> str:
    if len(words) != 2:
        raise FlowError(f"{words[0]} takes an id")
    return words[1]


def _wrong_number(words: list[bytes]) -> list[bytes]:
    name = words[0].decode("utf-8", "replace").lower()
    return [error_token(f"ERR wrong number of arguments for '{name}' command")]


def _told(error: BaseException) -> bytes:
    return error_token(str(error) if isinstance(error, (FlowError, ConnectionLost)) else describe(error))


def _results(execution: Execution) -> list[bytes]:
    return [b"*2", *array(execution.results), *tokens(list(execution.errors))]
