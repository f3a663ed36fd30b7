"""Sessions: the code of RG.PYEXECUTE, what it has registered, and what the server keeps of it.

The server keeps, for each session that has registrations, its code and which of its calls of register() are live. At
the start of the process the code is run again, so register() is called again in the same order.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flows.builder import SCRIPT, Context
from flows.connections import encode
from flows.executions import Execution, Runtime
from flows.readers import ForEvents, ForRun
from flows.readers.commands import CommandReader
from flows.readers.generators import python_records, shard_records
from flows.readers.keys import KeysReader, run_keys
from flows.readers.keys import run_records as keys_records
from flows.readers.streams import Group, StreamReader, remove
from flows.readers.streams import run_records as stream_records
from flows.registrations import Registration, Words
from flows.replies import complain, describe
from flows.server import ACTOR, Actor, Control
from flows.steps import Aborted, Step
from flows.threads import Lane

if TYPE_CHECKING:
    from flows.requirements import Requirements

FOR_EVENTS: dict[str, ForEvents] = {
    "CommandReader": CommandReader,
    "StreamReader": StreamReader,
    "KeysReader": KeysReader,
}
FOR_RUN: dict[str, ForRun] = {
    "KeysReader": keys_records,
    "KeysOnlyReader": run_keys,
    "StreamReader": stream_records,
    "PythonReader": python_records,
    "ShardsIDReader": shard_records,
}
REPLAY_SECONDS = 20.0
NOT_YET = "its code has not ended yet"
RESTS = "flows rest for a minute, for the flow process ended again and again: RG.UNREGISTER what is broken"


class FlowError(Exception):
    """A refusal in words for the client."""


class Session:
    """One piece of code. While it runs, it is the script that run() and register() belong to."""

    hook: bytes | None = None

    def __init__(
        self, sessions: Sessions, name: str, actor: Actor, code: str, description: str | None, requirements: list[str]
    ) -> None:
        self.sessions = sessions
        self.id = name
        self.actor = actor
        self.code = code
        self.description = description
        self.requirements = requirements
        self.registrations: list[Registration] = []
        self.lane = Lane(1)
        self.steps: Sequence[Step] = []
        self.run_with: tuple[ForRun, Any, Words] | None = None
        self.kept: dict[int, dict[str, Any]] | None = None  # replayed: the live calls of register()
        self.calls = 0
        self.has_run = False
        self.error: str | None = None
        self.unreadable: bytes | None = None  # what the server keeps of it

    # ---- what the code calls

    def run(self, builder: Context, argument: Any, words: dict[str, Any]) -> None:
        self._check_runs()
        if self.kept is not None:
            return
        if self.run_with is not None:
            raise RuntimeError("run() may be called once in the code of one RG.PYEXECUTE")
        make = FOR_RUN.get(builder.reader)
        if make is None:
            raise ValueError(f"{builder.reader} has nothing to run over: use register()")
        self.steps = list(builder.steps)
        self.run_with = (make, argument, Words(builder.reader, words))

    def register(self, builder: Context, words: dict[str, Any]) -> None:
        self._check_runs()
        index = self.calls
        self.calls += 1
        kept = self.kept.get(index) if self.kept is not None else {}
        if kept is None:
            return  # it was unregistered
        make = FOR_EVENTS.get(builder.reader)
        if make is None:
            raise ValueError(f"{builder.reader} has no events: use run()")
        known = Words(builder.reader, words)
        runtime = self.sessions.runtime
        name = kept.get("id") or runtime.next_id()
        registration = Registration(
            runtime, self, index, name, make(known), builder.steps, known, builder.description or self.description
        )
        registration.group = kept.get("group") or registration.group
        self.sessions.check_free(registration)
        self.registrations.append(registration)

    def _check_runs(self) -> None:
        """Threads that the code has started may outlive it."""
        if self.has_run:
            raise RuntimeError("run() and register() are for the code of RG.PYEXECUTE, and it has ended")

    # ---- how it runs

    def execute(self) -> None:
        """Runs the code in this thread. Raises what it raises."""
        token = SCRIPT.set(self)
        ACTOR.set(self.actor)
        try:
            exec(compile(self.code, "<flow>", "exec"), self.sessions.make_globals())
        finally:
            SCRIPT.reset(token)
            self.has_run = True

    def records(self) -> Iterator[Any]:
        assert self.run_with
        make, argument, words = self.run_with
        return make(self.sessions.runtime.server, argument, words)

    # ---- what the server keeps

    def live(self) -> dict[int, dict[str, Any]]:
        """Its live calls of register(), also where its code has failed."""
        if self.error is not None:
            return self.kept or {}
        return {each.index: _kept(each) for each in self.registrations}

    def groups(self) -> list[Group]:
        streams = [each for each in self.live().values() if each["prefix"] is not None]
        return [Group(self.actor, each["prefix"], each["group"]) for each in streams]

    def payload(self) -> bytes:
        if self.unreadable is not None:
            return self.unreadable
        return json.dumps(
            {
                "version": 1,
                "user": self.actor.user,
                "db": self.actor.db,
                "code": self.code,
                "description": self.description,
                "requirements": self.requirements,
                "registrations": self.live(),
            }
        ).encode()

    @classmethod
    def from_payload(cls, sessions: Sessions, name: str, payload: bytes) -> Session:
        kept = json.loads(payload)
        actor = Actor(kept["user"], int(kept["db"]))
        session = cls(sessions, name, actor, kept["code"], kept["description"], kept["requirements"])
        session.kept = {
            int(index): {name: each.get(name) and f"{each[name]}" for name in ("id", "group", "prefix")}
            for index, each in kept["registrations"].items()
        }
        for each in session.kept.values():
            int(each["id"].rpartition("-")[2])
        return session

    def names(self) -> list[str]:
        """Of its registrations."""
        return [each["id"] for each in self.live().values()]


def _kept(registration: Registration) -> dict[str, Any]:
    reader = registration.reader
    prefix = reader.prefix if isinstance(reader, StreamReader) else None
    return {"id": registration.id, "group": registration.group, "prefix": prefix}


class Sessions:
    """Those with registrations. Changes are made one at a time; users' code is called without the lock."""

    def __init__(
        self, runtime: Runtime, control: Control, requirements: Requirements, make_globals: Callable[[], dict[str, Any]]
    ) -> None:
        self.runtime = runtime
        self.make_globals = make_globals
        self.requirements = requirements
        self._control = control
        self._lock = threading.RLock()
        self.sessions: dict[str, Session] = {}
        # By what the messages of the server name; made anew at each change.
        self._triggers: dict[bytes, CommandReader] = {}
        self._hooks: dict[bytes, list[CommandReader]] = {}
        self._keys: dict[int, list[KeysReader]] = {}
        self._streams: dict[int, list[StreamReader]] = {}
        self.rest = False

    # ---- look-ups of the main thread

    def trigger(self, name: bytes) -> CommandReader | None:
        return self._triggers.get(name)

    def hook(self, words: list[bytes]) -> CommandReader | None:
        key = words[1] if len(words) > 1 else b""
        for reader in self._hooks.get(words[0].upper(), ()):
            if key.startswith(encode(reader.prefix)):
                return reader
        return None

    def note_event(self, db: int, event: str, key: bytes) -> None:
        for reader in self._keys.get(db, ()):
            reader.note(event, key)

    def note_stream(self, db: int, key: bytes) -> None:
        for reader in self._streams.get(db, ()):
            reader.note(key)

    def find_streams(self) -> None:
        """Some may have changed, and nobody has told which."""
        for readers in self._streams.values():
            for reader in readers:
                reader.find()

    # ---- changes

    def live(self) -> list[Registration]:
        """In the order in which they were registered, also after a restart."""
        with self._lock:
            ready = [session for session in self.sessions.values() if session.error is None]
            found = [each for session in ready for each in session.registrations]
        return sorted(found, key=lambda each: int(each.id.rpartition("-")[2]))

    def check_free(self, registration: Registration) -> None:
        """Two flows cannot answer the same trigger."""
        reader = registration.reader
        if not isinstance(reader, CommandReader) or reader.trigger is None:
            return
        for other in registration.session.registrations:
            if isinstance(other.reader, CommandReader) and other.reader.trigger == reader.trigger:
                raise FlowError(f"the trigger {reader.trigger!r} is registered twice in this code")

    def check_replaceable(self, name: str, upgrade: bool, replaced: str | None) -> None:
        with self._lock:
            if name in self.sessions and not upgrade and replaced != name:
                raise FlowError(f"the session {name!r} exists: add UPGRADE to replace it, or choose another ID")
            if replaced is not None and replaced not in self.sessions:
                raise FlowError(f"REPLACE_WITH: there is no session {replaced!r}; RG.PYDUMPSESSIONS lists them")

    def install(self, session: Session, upgrade: bool, replaced: str | None) -> None:
        """The code has run: what it registered becomes live, in place of other sessions."""
        for index, registration in enumerate(session.registrations):
            try:
                self._tell(registration, registration.on_registered, "onRegistered")
            except BaseException:
                for each in session.registrations[:index]:
                    self._untell(each)
                raise
        try:
            with self._lock:
                gone, left = self._put(session, upgrade, replaced)
        except BaseException:
            for each in session.registrations:
                self._untell(each)
            raise
        self._end(gone, left)
        for each in session.registrations:
            each.reader.begin()

    def _put(self, session: Session, upgrade: bool, replaced: str | None) -> tuple[list[Registration], list[Group]]:
        """All or nothing. Returns the registrations that are gone, and the groups that nobody goes on with."""
        if session.kept is not None:  # some may have been unregistered while its code ran
            if self.sessions.get(session.id) is not session:
                raise FlowError("the session was removed while its code ran")
            session.registrations = [each for each in session.registrations if each.index in session.kept]
        self.check_replaceable(session.id, upgrade, replaced)
        names = [name for name in dict.fromkeys((session.id, replaced)) if name in self.sessions]
        old = [self.sessions[each] for each in names if each is not None and self.sessions[each] is not session]
        gone = [known for before in old for known in before.registrations]
        self._check_triggers(session, old)
        left = self._adopt(session, old)
        kept, error = dict(self.sessions), session.error
        try:
            for before in old:
                del self.sessions[before.id]
            if session.registrations:
                self.sessions[session.id] = session
                session.error = None
                if session.kept is None:
                    self._control.say("RG._FLOW", session.id, session.payload())
            self._index()
            for before in old:
                if before.id not in self.sessions:
                    self._control.say("RG._FLOW", before.id)
        except BaseException:
            self.sessions, session.error = kept, error
            with suppress(Exception):
                for each in (session, *old):
                    if each.id in kept:
                        self._control.say("RG._FLOW", each.id, kept[each.id].payload())
                    elif session.kept is None:
                        self._control.say("RG._FLOW", each.id)
                self._index()
            raise
        for known in gone:
            known.is_live = False
        for known in session.registrations:
            known.is_live = True
        return gone, left

    def _check_triggers(self, session: Session, old: list[Session]) -> None:
        for registration in session.registrations:
            reader = registration.reader
            if isinstance(reader, CommandReader) and reader.trigger is not None:
                known = self._triggers.get(encode(reader.trigger))
                if known is not None and known.registration.session not in old:
                    raise FlowError(
                        f"the trigger {reader.trigger!r} is registered already, as {known.registration.id} of the "
                        f"session {known.registration.session.id!r}: end it by RG.UNREGISTER, or name the session in "
                        "RG.PYEXECUTE … REPLACE_WITH"
                    )

    def _adopt(self, session: Session, old: list[Session]) -> list[Group]:
        """A new version goes on where the old one was in its streams. Returns the groups that it leaves."""
        left = [group for before in old for group in before.groups()]
        for registration in session.registrations:
            if isinstance(registration.reader, StreamReader):
                known = (registration.actor.db, registration.reader.prefix)
                found = next((group for group in left if (group.actor.db, group.prefix) == known), None)
                if found is not None:
                    registration.group = found.name
                    left.remove(found)
        return left

    def unregister(self, name: str) -> None:
        """Also one of a session whose code has failed."""
        with self._lock:
            session = next((each for each in self.sessions.values() if name in each.names()), None)
            if session is None:
                raise FlowError(f"there is no registration {name!r}: RG.DUMPREGISTRATIONS lists them")
            registrations, kept, groups = session.registrations, session.kept, session.groups()
            session.registrations = [each for each in registrations if each.id != name]
            session.kept = kept and {index: each for index, each in kept.items() if each["id"] != name}
            try:
                if session.live():
                    self._control.say("RG._FLOW", session.id, session.payload())
                else:
                    self._control.say("RG._FLOW", session.id)
                    del self.sessions[session.id]
            except BaseException:
                session.registrations, session.kept = registrations, kept
                raise
            gone = [each for each in registrations if each.id == name and each.is_live]
            for each in gone:
                each.is_live = False
            self._index()
        self._end(gone, [group for group in groups if group not in session.groups()])

    def _end(self, registrations: list[Registration], groups: list[Group]) -> None:
        for group in groups:
            try:
                remove(self.runtime.server, group)
            except Exception as error:
                complain(f"to remove the group {group.name} from its streams", error)
        for registration in registrations:
            self._untell(registration)

    def _tell(self, registration: Registration, function: Callable[..., Any] | None, name: str) -> None:
        """Calls onRegistered or onUnregistered, which may be async."""
        if function is None:
            return
        ACTOR.set(registration.actor)
        value = function()
        if hasattr(type(value), "__await__"):
            self.runtime.loop.wait(value)

    def _untell(self, registration: Registration) -> None:
        try:
            self._tell(registration, registration.on_unregistered, "onUnregistered")
        except Aborted:
            raise
        except BaseException as error:
            complain("onUnregistered", error)

    def _index(self) -> None:
        """What messages are for whom, and what the server is to tell."""
        triggers: dict[bytes, CommandReader] = {}
        hooks: dict[bytes, list[CommandReader]] = {}
        keys: dict[int, list[KeysReader]] = {}
        streams: dict[int, list[StreamReader]] = {}
        watches: dict[tuple[str | int, ...], None] = {}
        hooked: list[str] = []
        for registration in self.live():
            reader = registration.reader
            watches.update(dict.fromkeys(reader.watches(registration.actor.db)))
            if isinstance(reader, KeysReader):
                keys.setdefault(registration.actor.db, []).append(reader)
            elif isinstance(reader, StreamReader):
                streams.setdefault(registration.actor.db, []).append(reader)
            elif isinstance(reader, CommandReader) and reader.trigger is not None:
                triggers[encode(reader.trigger)] = reader
            elif isinstance(reader, CommandReader) and reader.hook is not None:
                hooks.setdefault(encode(reader.hook.upper()), []).insert(0, reader)
                hooked += (reader.hook, reader.prefix)
        self._triggers, self._hooks, self._keys, self._streams = triggers, hooks, keys, streams
        self.runtime.readers = [reader for readers in streams.values() for reader in readers]
        failed = [session for session in self.sessions.values() if session.error is not None]
        self.runtime.absent = [group for session in failed for group in session.groups()]
        self._control.say("RG._PROCESS", "WATCH", *(word for row in watches for word in row))
        self._control.say("RG._PROCESS", "HOOKS", *hooked)

    # ---- the start of the process

    def replay(self, rest: float) -> None:
        """Runs the code of all sessions again. One that fails is kept: the next start may have more luck.

        rest: one of them ends the process each time. They wait so many seconds, so that it can be removed.
        """
        flat = self._control.say("RG._PROCESS", "LOAD")
        found = []
        for raw, data in zip(flat[::2], flat[1::2], strict=True):
            name = raw.decode("utf-8", "surrogateescape")
            try:
                session = Session.from_payload(self, name, data)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                session = Session(self, name, Actor("", 0), "", None, [])
                session.error, session.unreadable = f"it cannot be read: {describe(error)}", data
                self.runtime.log(f"the session {name!r} cannot be read: {describe(error)}", "warning")
            else:
                session.error = RESTS if rest else NOT_YET
                found.append(session)
            self.sessions[name] = session
        self._index()  # before any of them trims a stream
        if not rest:
            self._replay_all(found)
            return
        self.rest = True
        self.runtime.log(RESTS, "warning")
        timer = threading.Timer(rest, self._replay_all, (found,))
        timer.daemon = True
        timer.start()

    def _replay_all(self, sessions: list[Session]) -> None:
        self.rest = False
        threads = []
        for session in sessions:
            if self.sessions.get(session.id) is not session:
                continue
            session.error = NOT_YET
            thread = threading.Thread(target=self._replay, args=(session,), name="replay", daemon=True)
            thread.start()
            threads.append((session, thread))
        until = time.monotonic() + REPLAY_SECONDS
        for session, thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self.runtime.log(f"the code of the session {session.id!r} still runs: its flows wait for it", "warning")

    def _replay(self, session: Session) -> None:
        try:
            if session.requirements:
                self.requirements.install(session.requirements)
            session.execute()
            if not session.registrations:
                raise FlowError("it has registered nothing this time")
            self.install(session, True, None)
        except BaseException as error:
            session.error = describe(error)
            session.registrations = []
            self.runtime.log(f"the flows of the session {session.id!r} do not run: {session.error}", "warning")


def start(
    sessions: Sessions,
    session: Session,
    *,
    upgrade: bool,
    replaced: str | None,
    force: bool,
    unblocking: bool,
    answer: Callable[[Execution | None, BaseException | None], None],
) -> None:
    """RG.PYEXECUTE: the code runs in a thread of the pool, then what it has asked to run.

    answer is called once: with an execution, an error, or neither where the code only registered.
    """
    runtime = sessions.runtime
    execution = Execution(runtime, session, None, is_registered=False)
    runtime.executions.add(execution)

    def fail(error: BaseException) -> None:
        execution.fail(error)
        runtime.executions.forget(execution)
        answer(None, FlowError("the execution was aborted") if isinstance(error, Aborted) else error)

    def begin() -> None:
        try:
            with execution.here():
                sessions.check_replaceable(session.id, upgrade, replaced)
                if session.requirements or force:
                    sessions.requirements.install(session.requirements, force=force)
                session.execute()
                if session.registrations or upgrade or replaced is not None:
                    sessions.install(session, upgrade, replaced)
                records = session.records() if session.run_with is not None else None
        except BaseException as error:
            fail(error)
            return
        if records is None:
            runtime.executions.forget(execution)
            answer(None, None)
            return
        if unblocking:
            answer(execution, None)
        else:
            execution.on_end = lambda ended: answer(ended, None)
        execution.advance(records, 0)

    runtime.pool.submit(session.lane, begin)
