"""redisai-top: its figures between two samples, on a terminal and as text, hostile names, errors, and docs/top.md.

PICTURE=docs/top.svg draws the picture of that page anew: of what test_picture sees then.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redisai_module.programs.figures import Figures
from redisai_module.programs.top import Sample, View, take
from rich.console import Console

from testkit import models
from testkit.server import Client, Server
from testkit.waiting import wait_for
from tests.conftest import StartServer
from tests.tools.test_docs import page_blocks

PROGRAM = str(Path(sys.executable).parent / "redisai-top")
TITLE = "Watching on a terminal: redisai-top"
HEADINGS = ["MODEL", "TAG", "BACKEND", "DEVICE", "RUNS/S", "BATCH", "WAITING"]
HEADINGS += ["WAIT_P99", "RUN", "RUN_P99", "ERRORS", "REFUSED"]
Rows = dict[str, dict[str, str]]


def url_of(server: Server) -> str:
    return f"redis://127.0.0.1:{server.port}"


def screen(width: int = 120, height: int = 30) -> Console:
    return Console(width=width, height=height, file=io.StringIO(), force_terminal=True, markup=False, record=True)


def shown(view: View, console: Console) -> str:
    console.print(view.show(console, "redis://127.0.0.1:6379"))
    return console.export_text(clear=False)


def rows(text: str) -> Rows:
    """The rows of models by their names. No field is empty or has a space."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.replace("T P", "T_P").replace("N P", "N_P").split() == HEADINGS)
    return {line.split()[0]: dict(zip(HEADINGS, line.split(), strict=True)) for line in lines if line.strip()}


def store(r: Client, key: str | bytes, *words: str | int) -> None:
    assert r.execute_command("AI.MODELSTORE", key, "ONNX", "CPU:1", *words, "BLOB", models.onnx_add()) == b"OK"


def run(r: Client, key: str, count: int, rows: int = 3) -> None:
    x = f"{key}:x"
    r.execute_command("AI.TENSORSET", x, "FLOAT", rows, 2)
    for _ in range(count):
        r.execute_command("AI.MODELEXECUTE", key, "INPUTS", 2, x, x, "OUTPUTS", 1, "y")


def test_figures(server: Server, r: Client) -> None:
    """Rates and means are those between the samples; what had run before does not count."""
    store(r, "fraud", "TAG", "v3")
    store(r, "idle")
    run(r, "fraud", 5, rows=1)
    figures = Figures(url_of(server), 3600)
    calls = r.info("commandstats")
    before = take(figures)
    run(r, "fraud", 20)
    with pytest.raises(Exception, match="unsupported|shape|dimension|Got|rank|Inputs|inputs|invalid"):
        r.execute_command("AI.TENSORSET", "bad", "FLOAT", 3, 3)
        r.execute_command("AI.MODELEXECUTE", "fraud", "INPUTS", 2, "bad", "bad", "OUTPUTS", 1, "y")
    now = take(figures)
    view = View(before._replace(at=now.at - 2), now)
    console = screen()
    found = rows(shown(view, console))
    fraud, idle = found["fraud"], found["idle"]
    assert (fraud["TAG"], fraud["BACKEND"], fraud["DEVICE"]) == ("v3", "ONNX", "CPU:1")
    assert (fraud["RUNS/S"], fraud["WAITING"], fraud["ERRORS"], fraud["REFUSED"]) == ("10.5", "0", "1", "0")
    assert float(fraud["BATCH"]) == pytest.approx(60 / 21, abs=0.05) and float(fraud["RUN"]) > 0
    assert (idle["TAG"], idle["RUNS/S"], idle["BATCH"], idle["RUN"]) == ("-", "0.0", "-", "-")
    assert list(found) == ["fraud", "idle"], "the busiest first"
    red = re.search(r"\.(\S+) \{ fill: #cc555a", console.export_svg(clear=False))
    assert red, "errors that are new are red"

    store(r, "fraud", "TAG", "v4")
    run(r, "fraud", 8)
    again = take(figures)
    fraud = rows(shown(View(now._replace(at=again.at - 2), again), screen()))["fraud"]
    assert (fraud["TAG"], fraud["RUNS/S"], fraud["ERRORS"]) == ("v4", "4.0", "0"), "a new version begins at 0"

    found_calls = r.info("commandstats")
    asked = {
        name: found_calls[name]["calls"] - calls.get(name, {"calls": 0})["calls"]
        for name in ("cmdstat_AI._MODELSCAN", "cmdstat_AI._SCRIPTSCAN", "cmdstat_AI.INFO")
    }
    assert list(asked.values()) == [1, 1, 2 * 3], "the list of models is kept"


def test_what_runs_and_waits(start_server: StartServer) -> None:
    server = start_server(options=["ISOLATION", "process"])
    with server.client() as r:
        r.execute_command("AI.MODELSTORE", "loop", "ONNX", "CPU", "MAXQUEUE", 2, "BLOB", models.onnx_loop())
        r.execute_command("AI.TENSORSET", "n", "INT64", "VALUES", 10**8)
        figures = Figures(url_of(server), 3600)
        with server.wire() as one, server.wire() as two:
            for wire in one, two:
                wire.send("AI.MODELEXECUTE", "loop", "INPUTS", 1, "n", "OUTPUTS", 1, "y")
            wait_for(lambda: figures.server().busy, what="one runs")
            wait_for(lambda: len(r.execute_command("AI.RUNS")) == 2, what="one waits")
            before = take(figures)
            with pytest.raises(Exception, match="MAXQUEUE"):
                r.execute_command("AI.MODELEXECUTE", "loop", "INPUTS", 1, "n", "OUTPUTS", 1, "y")
            text = shown(View(before, take(figures)), screen())
            server.kill()
    assert re.search(r"\b2 runs wait with 16 B, 1 refused; memory \S+ MB, libraries", text)
    assert re.search(r"^CPU 1 +\d+% +model=loop,tag= for [\d.]+ s", text, re.MULTILINE)
    assert re.search(r"^process CPU +up, \S+ MB, 0 deaths", text, re.MULTILINE)
    assert (rows(text)["loop"]["WAITING"], rows(text)["loop"]["REFUSED"]) == ("2", "1")


def test_hostile_names(server: Server, r: Client) -> None:
    """A terminal obeys nothing of a key or a tag, and two keys do not look alike."""
    store(r, b"k\x1b[2J\n\xff", "TAG", "\x1b]0;t\x07[red]")
    store(r, "\u202ek")
    console = screen()
    text = shown(View(None, take(Figures(url_of(server), 3600))), console)
    assert r"k\x1b[2J\n\xff" in text and r"\x1b]0;t\x07[" in text and r"\u202ek" in text
    assert not set(text) & {"\x1b", "\x07", "\u202e"}


def test_small_terminals(server: Server, r: Client) -> None:
    for number in range(30):
        store(r, f"model{number:02}")
    sample = take(Figures(url_of(server), 3600))
    text = shown(View(None, sample), screen(width=80, height=16))
    assert len(text.splitlines()) == 15 and max(map(len, text.splitlines())) <= 80
    assert "TAG" not in text and "model00" in text
    last = text.splitlines()[-1]
    assert last.split() == ["and", str(30 - text.count("model")), "more"]
    assert "more" not in shown(View(None, sample), screen(height=50))


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """Runs of two models without a pause."""
    ended = threading.Event()

    def ask(key: str, count: int) -> None:
        with server.client() as r:
            while not ended.is_set():
                run(r, key, 20, rows=count)

    threads = [threading.Thread(target=ask, args=row) for row in [("fraud", 1)] * 6 + [("text:tokens", 8)]]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_text(server: Server, r: Client, tmp_path: Path) -> None:
    """By the commands of the page."""
    store(r, "fraud", "TAG", "v3")
    store(r, "text:tokens")
    live, once = page_blocks("docs/top.md", TITLE, "sh")
    assert live == "redisai-top --url redis://127.0.0.1:6379\n"
    environment = {"PATH": f"{Path(PROGRAM).parent}:/usr/bin:/bin", "REDIS_URL": url_of(server)}
    with busy(server):
        done = subprocess.run(["bash", "-ec", once], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done
    assert re.fullmatch(r"fraud \d+\.\d\ntext:tokens \d+\.\d\n", "".join(sorted(done.stdout.splitlines(True)))), done
    assert all(float(line.split()[1]) > 1 for line in done.stdout.splitlines())


def test_terminal(start_server: StartServer) -> None:
    """It draws again and again, says when the server is gone, and leaves the terminal as it was."""
    server = start_server()
    with server.client() as r:
        store(r, "fraud")
    main, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 20, 110, 0, 0))
    text = ""

    def read_until(pattern: str) -> None:
        nonlocal text
        text = ""
        while not re.search(pattern, text, re.DOTALL):
            assert select.select([main], [], [], 20)[0], text
            text += os.read(main, 65536).decode()

    command = [PROGRAM, "--seconds", "0.2", "--url", f"redis://:secret@127.0.0.1:{server.port}"]
    environment = {**os.environ, "TERM": "xterm-256color"}
    with server.client() as r:
        r.execute_command("ACL", "SETUSER", "default", ">secret")
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True)
    try:
        read_until(r"\x1b\[\?1049h.*fraud")
        read_until(r"runs/s.*fraud")
        assert "secret" not in text
        server.kill()
        read_until(r"Connection refused.*fraud|Error.*fraud")
        process.terminate()
        read_until(r"\x1b\[\?1049l")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)
        os.close(its)


def test_errors(start_server: StartServer) -> None:
    plain = start_server(module=None)

    def fails(*words: str) -> str:
        done = subprocess.run([PROGRAM, "--once", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode and not done.stdout
        return done.stderr

    assert "the server has not loaded the module" in fails("--url", url_of(plain))
    plain.kill()
    told = fails("--url", f"redis://:secret@127.0.0.1:{plain.port}")
    assert told.startswith(f"redisai-top: redis://127.0.0.1:{plain.port}: ") and "secret" not in told


def test_picture(start_server: StartServer) -> None:
    """Two models are busy, one is stuck and refuses, one is idle."""
    path = os.environ.get("PICTURE")
    server = start_server(options=["ISOLATION", "process", "MODEL_EXECUTION_TIMEOUT", "60000"])
    console = screen(width=116, height=17)
    with server.client() as r:
        store(r, "fraud", "TAG", "v3", "BATCHSIZE", 16)
        store(r, "text:tokens", "TAG", "2026-03")
        store(r, "digits")
        r.execute_command("AI.MODELSTORE", "reports", "ONNX", "CPU", "MAXQUEUE", 2, "BLOB", models.onnx_loop())
        r.execute_command("AI.TENSORSET", "n", "INT64", "VALUES", 10**9)
        wires = [server.wire() for _ in range(5)]
        for wire in wires:
            wire.send("AI.MODELEXECUTE", "reports", "INPUTS", 1, "n", "OUTPUTS", 1, "y")
        figures = Figures(url_of(server), 3600)
        with busy(server):
            samples: list[Sample] = [take(figures)]

            def has_moved() -> bool:
                samples[1:] = [take(figures)]
                grown = View(*samples)
                seconds = 3 if path else 0.2
                return grown.seconds > seconds and all(grown.rate(info) > 0 for info in busy_ones(samples[1]))

            def busy_ones(sample: Sample) -> list[dict[str, object]]:
                return [info for info in sample.models.values() if info["key"] in ("fraud", "text:tokens")]

            wait_for(has_moved, 30)
            found = rows(shown(View(*samples), console))
        server.kill()
        for wire in wires:
            wire.socket.close()
    assert set(found) == {"fraud", "text:tokens", "digits", "reports"}
    assert (found["reports"]["WAITING"], found["reports"]["REFUSED"]) == ("2", "3")
    if path:
        svg = console.export_svg(title="redisai-top")
        Path(path).write_text(re.sub(r"@font-face {.*?}", "", svg, flags=re.DOTALL))  # they are on the network
