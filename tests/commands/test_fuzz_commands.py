"""Random commands, valid, nearly valid and absurd: each gets one well-formed reply, and the server lives.

FUZZ_COMMANDS=100000 runs so many commands, SEED=7 others.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from testkit import grammar
from testkit.grammar import Step, Words
from testkit.server import Server, module_path
from testkit.wire import Error, Simple, Wire, encode

COMMANDS = int(os.environ.get("FUZZ_COMMANDS", 5000))
SEED = int(os.environ.get("SEED", 1))
AN_EXAMPLE = 30  # commands, about
WAIT = 60.0  # seconds for a reply


class Client:
    """One connection. After every command it asks for an echo: so each has got one reply, no more and no less."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.wire = Wire(server.port, timeout=WAIT)
        self.number = 0
        self.waiting: list[tuple[Words, bytes]] = []

    def send(self, words: Words) -> None:
        self.number += 1
        echo = b"echo %d" % self.number
        self.wire.socket.sendall(encode(words) + encode(("ECHO", echo)))
        self.waiting.append((words, echo))

    def read(self) -> None:
        """The replies to all that was sent."""
        while self.waiting:
            words, echo = self.waiting.pop(0)
            reply = self.wire.read()
            check(words, reply)
            after = self.wire.read()
            assert after in (echo, b"QUEUED") or isinstance(after, Error), (words, reply, after)

    def close(self) -> None:
        self.wire.close()


OUR_STATUS = (
    *("AI.TENSORSET", "AI.MODELSTORE", "AI.MODELSET", "AI.SCRIPTSTORE", "AI.SCRIPTSET", "AI.MODELDEL", "AI.SCRIPTDEL"),
    "AI.MODELCONFIG",
    *("AI.MODELEXECUTE", "AI.MODELRUN", "AI.SCRIPTEXECUTE", "AI.SCRIPTRUN"),
)


def check(words: Words, reply: Any) -> None:
    """The reply has the form that this command's replies have."""
    for error in errors_in(reply):
        code, _, text = error.partition(" ")
        assert code.isupper() and text.strip() and not text.startswith("ERR "), (words, reply)
        assert not {"\n", "\r"} & set(error), (words, reply)
    if isinstance(reply, Error) or reply == b"QUEUED":
        return
    name = str(words[0]).upper()
    if name in OUR_STATUS:
        assert type(reply) is Simple and reply in (b"OK", b"TIMEDOUT"), (words, reply)
    elif name.startswith("AI.DAG"):
        assert reply == b"TIMEDOUT" or len(reply) == words.count("|>"), (words, reply)
    elif name == "AI.TENSORGET":
        assert isinstance(reply, bytes | list), (words, reply)
    elif name == "AI.MODELGET":
        assert isinstance(reply, bytes) or len(reply) in (16, 18) or b"META" not in words, (words, reply)


def errors_in(reply: Any) -> Iterator[Error]:
    if isinstance(reply, Error):
        yield reply
    elif isinstance(reply, list):
        for item in reply:
            yield from errors_in(item)


def play(server: Server, steps: list[Step]) -> int:
    with server.wire() as wire:
        grammar.set_up(wire)
        wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 535822336)
    main, aside = Client(server), Client(server)
    count = 0
    try:
        for step in steps:
            for words in step.commands:
                count += 1
                (aside if step.aside else main).send(words)
            main.read()
        aside.read()
    finally:
        main.close()
        aside.close()
    return count


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = ("--appendonly", "yes", "--appendfsync", "no", "--proto-max-bulk-len", "64mb")
    server = Server(tmp_path_factory.mktemp("fuzz"), arguments, ("THREADS_PER_QUEUE", "2"), module_path()).start()
    yield server
    assert server.stop() == 0, server.log_tail()
    # Redis ends a child that saves with SIGUSR1, when DEBUG RELOAD or FLUSHALL makes it useless.
    assert set(re.findall(r"terminated by signal (\d+)", server.log())) <= {str(int(signal.SIGUSR1))}
    for line in ("Background saving error", "AOF rewrite terminated with error"):
        assert line not in server.log()


@pytest.mark.timeout(60 + COMMANDS // 20)
def test_random_commands(fuzzed: Server) -> None:
    print(f"SEED={SEED} FUZZ_COMMANDS={COMMANDS}")
    count = 0

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=max(1, COMMANDS // AN_EXAMPLE),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @hypothesis.given(st.lists(grammar.steps(), min_size=20, max_size=40))
    def run(steps: list[Step]) -> None:
        nonlocal count
        if fuzzed.process is None or fuzzed.process.poll() is not None:
            fuzzed.start()  # it was ended by an example of which now a smaller one is looked for
        count += play(fuzzed, steps)
        fuzzed.check_alive()

    run()
    print(f"{count} commands")


def test_the_server_can_be_started_again_with_what_the_commands_left(fuzzed: Server, tmp_path: Path) -> None:
    with fuzzed.wire() as wire:
        for database in (0, 1, 2):
            wire.ask("SELECT", database)
            for key in wire.ask("KEYS", "*"):
                wire.ask("PERSIST", key)
        digest = wire.ask("DEBUG", "DIGEST")
        assert wire.ask("DEBUG", "LOADAOF") == b"OK"
        assert wire.ask("DEBUG", "DIGEST") == digest
        assert wire.ask("DEBUG", "RELOAD") == b"OK"
        assert wire.ask("DEBUG", "DIGEST") == digest
