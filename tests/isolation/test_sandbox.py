"""What an engine process may not do. A backend of the test's own runs the Python that it gets as a model there."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit.server import Server, ServerExit, module_path, server_program
from testkit.wire import Error, Wire
from tests.conftest import StartServer
from tests.server.test_backends import PATHS, run_a_model

BACKEND = """
import ctypes, errno, fcntl, os, resource, signal, socket, subprocess
import pyseccomp

libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    number = name if isinstance(name, int) else pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), "")

def version():
    return "1"

def load(definition, settings):
    names = dict(globals())
    try:
        exec(bytes(definition.blob).decode(), names)
        if "Session" in names:
            return names["Session"]()
        answer = str(names.get("answer"))
    except OSError as error:
        answer = errno.errorcode[error.errno]
    raise RuntimeError(answer)
"""

ADDS = """
class Session:
    inputs = outputs = None

    def run(self, inputs):
        return [inputs[0] + inputs[1]]
"""

FILES = {
    "read the database": "open(folder + '/dump.rdb', 'rb').read()",
    "list the server's folder": "os.listdir(folder)",
    "read /etc/passwd": "open('/etc/passwd').read()",
    "read the server's environment": "open(f'/proc/{server}/environ', 'rb').read()",
    "read the server's command line": "open(f'/proc/{server}/cmdline').read()",
    "open the server's memory": "open(f'/proc/{server}/mem', 'rb')",
    "open the nanny's memory": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "list processes": "os.listdir('/proc')",
    "list devices": "os.listdir('/dev')",
    "write a file": "open(place + '/new', 'w')",
    "write the log": "open(folder + '/redis.log', 'a')",
    "write a backend": "open(own, 'a')",
    "make a folder": "os.mkdir(place + '/new')",
    "make a pipe": "os.mkfifo(place + '/new')",
    "delete a file": "os.unlink(victim)",
    "rename a file": "os.rename(victim, place + '/new')",
    "link a file": "os.link(victim, place + '/new')",
    "link a name": "os.symlink(victim, place + '/new')",
    "shorten a file": "os.truncate(victim, 0)",
    "shorten a file that may be read": "os.open(own, os.O_RDONLY | os.O_TRUNC)",
    "open a file to neither read nor write": "os.open(victim, os.O_ACCMODE)",
    "change the mode of a file": "os.chmod(victim, 0o600)",
    "change the mode of a file that may be read": "with open(own) as file: os.fchmod(file.fileno(), 0o600)",
    "change the owner of a file": "os.chown(victim, -1, -1)",
    "change the times of a file": "os.utime(victim)",
    "lower its OOM score": "open('/proc/self/oom_score_adj', 'w')",
}
PROGRAMS = {
    "execute a program": "subprocess.run(['/bin/true'], check=True)",
    "spawn a program": "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)",
    "fork": """
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
""",
}
NETWORK = {
    "connect to the server": "socket.create_connection(('127.0.0.1', port))",
    "connect to the server's UNIX socket": "socket.socket(socket.AF_UNIX).connect(folder + '/socket')",
    "make a UDP socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "make a UNIX datagram socket": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "make a pair of sockets": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "listen": "socket.create_server(('127.0.0.1', 0))",
    "ask the kernel about the network": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
}
PROCESSES = {
    "signal the server": "os.kill(server, 0)",
    "signal a thread of the server": "call('tgkill', server, server, 0)",
    "signal the nanny": "os.kill(os.getppid(), 0)",
    "signal every process": "os.kill(-1, 0)",
    "signal its process group": "os.kill(0, 0)",
    "signal by a descriptor": "signal.pidfd_send_signal(os.pidfd_open(os.getpid()), 0)",
    "let a descriptor signal the server": "fcntl.fcntl(3, fcntl.F_SETOWN, server)",
    "read the server's memory": "call('process_vm_readv', server, 0, 0, 0, 0, 0)",
    "write the server's memory": "call('process_vm_writev', server, 0, 0, 0, 0, 0)",
    "move the server to other cores": "os.sched_setaffinity(server, os.sched_getaffinity(server))",
    "slow the server down": "os.setpriority(os.PRIO_PROCESS, server, os.getpriority(os.PRIO_PROCESS, server))",
    "limit the server": "resource.prlimit(server, resource.RLIMIT_NOFILE)",
    "outlive the server": "call('prctl', 1, signal.SIGKILL, 0, 0, 0)",
    "share memory": "call('shmget', 0, 4096, 0)",
    "move to another namespace": "call('unshare', 0)",
}
ATTEMPTS = {**FILES, **PROGRAMS, **NETWORK, **PROCESSES}

# They fail outside too, in other ways.
CALLS = {
    "trace the server": ("call('ptrace', 16, server, 0, 0)", "EPERM"),
    "make a thread in another namespace": ("call('clone', 0x10000 | 0x20000, 0, 0, 0, 0)", "EPERM"),
    "make a process by clone3": ("call('clone3', 0, 0)", "ENOSYS"),
    "open by openat2": ("call('openat2', 0, 0, 0, 0)", "ENOSYS"),
    "open by a number": ("call('open_by_handle_at', 0, 0, 0)", "EPERM"),
    "make calls by io_uring": ("call('io_uring_setup', 0, 0)", "EPERM"),
    "use BPF": ("call('bpf', 0, 0, 0)", "EPERM"),
    "measure others": ("call('perf_event_open', 0, 0, 0, 0, 0)", "EPERM"),
    "use the kernel's keys": ("call('keyctl', 0, 0, 0, 0, 0)", "EPERM"),
    "mount": ("call('mount', 0, 0, 0, 0, 0)", "EPERM"),
    "load a part of the kernel": ("call('finit_module', -1, 0, 0)", "EPERM"),
    "type into the terminal": ("import termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')", "EPERM"),
    "make a call of a later kernel": ("call(511)", "ENOSYS"),
}

# As Landlock of Linux 6.1, which Debian 12 has.
OLDER = {
    "RIGHTS = (13, 14, 15, 15, 16)": "RIGHTS = (13, 14)",
    "TCP_SINCE, BIND_AND_CONNECT = 4,": "TCP_SINCE, BIND_AND_CONNECT = 99,",
    "SCOPES_SINCE, ABSTRACT_SOCKETS_AND_SIGNALS = 6,": "SCOPES_SINCE, ABSTRACT_SOCKETS_AND_SIGNALS = 99,",
}
MISSING = "the engine process has no "


class Attacked(Server):
    """A server whose ONNX backend runs Python."""

    def __init__(
        self, folder: Path, *options: str | int, module: Path | None = None, program: str | None = None
    ) -> None:
        self.place = folder / "place"
        self.own = folder / "backends" / "redisai_onnxruntime" / "redisai_onnxruntime.py"
        self.own.parent.mkdir(parents=True)
        self.own.write_text(BACKEND)
        dir = folder / "server"
        dir.mkdir()
        options = ("ISOLATION", "process", "BACKENDSPATH", str(folder / "backends"), "PYTHON", sys.executable, *options)
        super().__init__(dir, ["--unixsocket", str(dir / "socket")], options, module or module_path(), program=program)

    def run(self, code: str) -> str:
        """The answer of the code, or the name of the error that it ran into."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        self.own.write_text(BACKEND)
        victim = self.place / "victim"
        victim.write_text("text")
        names = {"server": self.pid, "port": self.port, "folder": str(self.folder)}
        names |= {"place": str(self.place), "own": str(self.own), "victim": str(victim)}
        text = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + code
        with self.wire() as wire:
            reply = wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", text)
        assert isinstance(reply, Error)
        return reply.removeprefix("ERR ")

    def ask(self, expression: str) -> Any:
        return eval(self.run(f"answer = repr({expression})"))


@pytest.fixture(scope="module", params=["as Linux 6.1", "this kernel"])
def sandboxed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("sandboxed")
    module = None
    if request.param == "as Linux 6.1":
        shutil.copytree(module_path().parent, folder / "redisai_module")
        module = folder / "redisai_module" / module_path().name
        source = module.parent / "redisai" / "sandbox.py"
        text = source.read_text()
        for new, old in OLDER.items():
            assert text.count(new) == 1
            text = text.replace(new, old)
        source.write_text(text)
    server = Attacked(folder, module=module)
    with server.start().wire() as wire:
        assert wire.ask("SET", "key", "value") == wire.ask("SAVE") == b"OK"
    yield server
    assert server.stop() == 0, server.log_tail()


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """The same without the sandbox."""
    server = Attacked(tmp_path_factory.mktemp("free"), "ALLOW_FILE_OPS", 1)
    with server.start().wire() as wire:
        assert wire.ask("SET", "key", "value") == wire.ask("SAVE") == b"OK"
    yield server
    assert server.stop() == 0, server.log_tail()


def skip_without_sandbox(server: Attacked) -> None:
    assert server.ask("1") == 1
    if MISSING in server.log():
        pytest.skip(next(line for line in server.log().splitlines() if MISSING in line))


@pytest.mark.parametrize("what", ATTEMPTS)
def test_is_refused(sandboxed: Attacked, what: str) -> None:
    skip_without_sandbox(sandboxed)
    assert sandboxed.run(ATTEMPTS[what]) in ("EPERM", "EACCES")
    sandboxed.check_alive()


@pytest.mark.parametrize("what", CALLS)
def test_call_is_refused(sandboxed: Attacked, what: str) -> None:
    skip_without_sandbox(sandboxed)
    code, error = CALLS[what]
    assert sandboxed.run(code) == error
    sandboxed.check_alive()


@pytest.mark.parametrize("what", ATTEMPTS)
def test_is_possible_with_file_operations(free: Attacked, what: str) -> None:
    """So the attempts above could succeed."""
    assert free.run(ATTEMPTS[what]) == "None"


def test_reaches_all_threads(sandboxed: Attacked) -> None:
    skip_without_sandbox(sandboxed)
    lines = sandboxed.ask("[open(f'/proc/self/task/{t}/status').read() for t in os.listdir('/proc/self/task')]")
    assert len(lines) >= 2
    for status in lines:
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"


def test_has_no_descriptors_of_the_server(sandboxed: Attacked) -> None:
    code = """
answer = []
for each in sorted(map(int, os.listdir('/proc/self/fd'))):
    try:
        answer.append(os.readlink(f'/proc/self/fd/{each}').replace(str(os.getpid()), 'PID'))
    except FileNotFoundError: # that of listdir
        pass
"""
    found = [target.partition(":[")[0] for target in eval(sandboxed.run(code))]
    log = str(sandboxed.log_file)
    own = ["socket", "/memfd:redisai (deleted)", "pipe", "/proc/PID/task"]
    assert found == ["/dev/null", log, log, *own]


def test_leaves_no_core_and_is_first_to_end_without_memory(free: Attacked) -> None:
    score = int(Path(f"/proc/{free.pid}/oom_score_adj").read_text())
    assert free.ask("resource.getrlimit(resource.RLIMIT_CORE)") == (0, 0)
    assert free.ask("int(open('/proc/self/oom_score_adj').read())") == min(1000, score + 500)
    assert "NoNewPrivs:\t1" in free.ask("open('/proc/self/status').read()")


def test_works_in_no_folder_of_the_server(sandboxed: Attacked) -> None:
    assert sandboxed.ask("os.getcwd()") == "/"


def test_finds_libraries_without_executing_programs(sandboxed: Attacked) -> None:
    assert sandboxed.ask("__import__('ctypes.util').util.find_library('c')") == "libc.so.6"
    assert sandboxed.ask("__import__('ctypes.util').util.find_library('nobody has it')") is None


def test_cannot_shorten_the_shared_memory(free: Attacked) -> None:
    assert free.run("os.ftruncate(4, 0)") == "EPERM"
    free.check_alive()


def test_cannot_take_the_results_of_another_process(sandboxed: Attacked) -> None:
    """By the pipe that tells the server of results, whose other end it can open: each process has its own."""
    code = """
import threading
end = os.open('/proc/self/fd/5', os.O_RDONLY)
def steal():
    while True:
        os.read(end, 4096)
threading.Thread(target=steal, daemon=True).start()
"""
    with Wire(sandboxed.port, timeout=10) as wire:
        assert wire.ask("AI.MODELSTORE", "adds", "ONNX", "CPU:1", "BLOB", ADDS) == b"OK"
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1) == b"OK"
        assert sandboxed.run(code) == "None"
        for _ in range(500):
            assert wire.ask("AI.MODELEXECUTE", "adds", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
    sandboxed.restart()


@pytest.mark.parametrize("order", [list(PATHS), list(reversed(PATHS))])
def test_all_libraries_run(start_server: StartServer, order: list[str]) -> None:
    server = start_server(options=["ISOLATION", "process"])
    with server.wire() as wire:
        for backend in order:
            run_a_model(wire, backend)
    assert "engine process" not in server.log(), server.log()


def test_a_backend_elsewhere_cannot_be_loaded_at_run_time(sandboxed: Attacked, tmp_path: Path) -> None:
    skip_without_sandbox(sandboxed)
    path = tmp_path / "mine.py"
    path.write_text(BACKEND)
    with sandboxed.wire() as wire:
        assert wire.ask("AI.CONFIG", "LOADBACKEND", "TF", str(path)) == "ERR error loading backend"
    assert "an engine process reads backends only from BACKENDSPATH" in sandboxed.log()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_backend_elsewhere_can_be_named_at_load_time(start_server: StartServer, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine" / "mine.py" if kind == "file" else tmp_path / "redisai_onnxruntime"
    folder = path.parent if kind == "file" else path
    folder.mkdir()
    (folder / f"{folder.name}.py").write_text("from .beside import BACKEND\nexec(BACKEND)\n")
    (folder / "beside.py").write_text(f"BACKEND = {BACKEND!r}\n")
    with start_server(options=["ISOLATION", "process", "ONNX", str(path)]).wire() as wire:
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", "answer = 'here'") == "ERR here"


REFUSING = """#!{python}
import errno, os, sys
import pyseccomp
rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), {call!r})
rules.load()
os.execv({server!r}, [{server!r}, *sys.argv[1:]])
"""


@pytest.mark.parametrize(
    "call, expected, attempt",
    [
        ("landlock_create_ruleset", "Landlock ([Errno 38] Function not implemented): models may read", "write a file"),
        ("seccomp", "seccomp (", "make a UDP socket"),
    ],
)
def test_what_is_missing_is_logged(tmp_path: Path, call: str, expected: str, attempt: str) -> None:
    program = tmp_path / "redis-server"
    program.write_text(REFUSING.format(python=sys.executable, call=call, server=server_program()))
    program.chmod(0o755)
    server = Attacked(tmp_path, program=str(program))
    try:
        server.start()
        assert server.run(ATTEMPTS[attempt]) == "None"
        assert server.log().count(MISSING) == server.log().count(MISSING + expected) == 1, server.log()
    finally:
        server.kill()


def test_a_broken_sandbox_runs_no_models(tmp_path: Path) -> None:
    module = tmp_path / "redisai_module" / module_path().name
    shutil.copytree(module_path().parent, module.parent)
    (module.parent / "redisai" / "sandbox.py").write_text("1 / 0\n")
    server = Attacked(tmp_path, module=module)
    try:
        with pytest.raises(ServerExit, match="the sandbox cannot be entered: ZeroDivisionError"):
            server.start()
    finally:
        server.kill()
