"""What an engine process may do: read its libraries, compute, and talk to the server that has started it.

process.py calls enter() while the process has one thread; the threads that start later inherit what is refused. The
kernel refuses it for good. No right is needed for that, and none helps against it, not even root's.

Landlock decides about files, seccomp about system calls. Kernels before 6.12 have only a part of Landlock, so the list
of refused calls does not rely on the rest. Where one of the two is missing, the engine starts, and the log says so.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import fcntl
import os
import re
import resource
import stat
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from _redisai_bridge import ffi, lib

from .backends import KINDS
from .loader import backends_path, onnx_custom_ops, options

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

OOM_SCORE = 500  # above the server's: where memory runs out, the kernel ends this process first

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38

# CUDA fails without: its devices, naming its threads in /proc, a socket that other processes could connect to.
HAS_GPU = os.path.exists("/dev/nvidiactl")


def enter() -> None:
    _call(_libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the users' data
    with suppress(OSError):
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(min(1000, int(score.read_text()) + OOM_SCORE)))
    if dict(options())["allow_file_ops"]:
        return
    os.chdir("/")
    ctypes.util.find_library = _find_library
    for part, consequence, restrict in (
        ("Landlock", "models may read and write the files of the server", _restrict_files),
        ("seccomp", "models may open sockets and reach other processes", _restrict_calls),
    ):
        try:
            restrict()
        except (ImportError, OSError, RuntimeError) as error:  # pyseccomp raises the last
            text = f"the engine process has no {part} ({error}): {consequence}. docs/security.md says what is needed"
            lib.bridge_log(b"warning", text.encode(errors="replace"))


def _call(function: Any, *arguments: Any) -> int:
    """Calls C. Numbers become longs, as the kernel takes them."""
    result: int = function(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _find_library(name: str) -> str | None:
    """Takes the place of ctypes.util.find_library, which executes programs and writes a temporary file."""
    try:
        cache = Path("/etc/ld.so.cache").read_bytes()
    except OSError:
        return None
    found = re.search(rb"[\0/](lib%s\.so[.\d]*)\0" % re.escape(os.fsencode(name)), cache)
    return os.fsdecode(found[1]) if found else None


# ---- files: Landlock -------------------------------------------------------------------------------------------------

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on all processors
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1

# The rights about files that versions 1, 2, ... of Landlock have: so many bits. Whatever is not granted is refused.
RIGHTS = (13, 14, 15, 15, 16)
WRITE_FILE, READ_FILE, READ_DIR, IOCTL = 1 << 1, 1 << 2, 1 << 3, 1 << 15
READ = READ_FILE | READ_DIR
TCP_SINCE, BIND_AND_CONNECT = 4, 0b11
SCOPES_SINCE, ABSTRACT_SOCKETS_AND_SIGNALS = 6, 0b11

# Of /proc, nothing about other processes: their command lines may hold passwords.
READABLE = (
    *("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/ssl/openssl.cnf"),
    *("/proc/self", "/proc/cpuinfo", "/proc/devices", "/proc/driver", "/proc/filesystems", "/proc/meminfo"),
    *("/proc/modules", "/proc/stat", "/proc/sys/kernel", "/proc/sys/vm", "/proc/version"),
    *("/sys/bus", "/sys/class", "/sys/devices", "/sys/fs/cgroup", "/sys/kernel/mm", "/sys/module"),
    *("/dev/random", "/dev/urandom", "/dev/zero"),
)


def _restrict_files() -> None:
    assert len(os.listdir("/proc/self/task")) == 1, "threads that run already would not be restricted"
    version = _call(_libc.syscall, CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)
    rights = (1 << RIGHTS[min(version, len(RIGHTS)) - 1]) - 1
    network = BIND_AND_CONNECT if version >= TCP_SINCE else 0
    scopes = ABSTRACT_SOCKETS_AND_SIGNALS if version >= SCOPES_SINCE else 0
    attributes = struct.pack("=QQQ", rights, network, scopes)
    ruleset = _call(_libc.syscall, CREATE_RULESET, attributes, len(attributes), 0)
    # Stays open: a rule for /proc/self would end once the kernel has forgotten the folder, to make it anew later.
    os.open("/proc/self/task", os.O_PATH)
    for path, granted in _granted():
        _grant(ruleset, path, granted & rights)
    _call(_libc.syscall, RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _grant(ruleset: int, path: str | Path, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH)
    except OSError:  # there is no such file here
        return
    if not stat.S_ISDIR(os.fstat(parent).st_mode):
        rights &= ~READ_DIR
    _call(_libc.syscall, ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", rights, parent), 0)
    os.close(parent)


def _granted() -> Iterator[tuple[str | Path, int]]:
    for path in (*READABLE, *_folders()):
        yield path, READ
    yield "/dev/null", READ | WRITE_FILE
    if HAS_GPU:
        for device in Path("/dev").glob("nvidia*"):
            yield device, READ | WRITE_FILE | IOCTL
        yield "/proc/self/task", READ | WRITE_FILE


def _folders() -> Iterator[str | Path]:
    """Where Python, its packages, their libraries and the backends are."""
    yield from (sys.prefix, sys.base_prefix, *sys.path)
    yield from filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    yield from onnx_custom_ops()
    backends = backends_path()
    yield backends
    for number in range(len(KINDS)):
        named = lib.bridge_backend_to_load(number)
        if named:
            path = backends / os.fsdecode(ffi.string(named))
            yield path if path.is_dir() else path.parent


# ---- system calls: seccomp -------------------------------------------------------------------------------------------

# Refused with any arguments. A processor may lack some.
REFUSED = {
    "no other program runs, and no process outlives this one": "execve execveat fork vfork",
    "no other process is read, changed or slowed down": """
        ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_open pidfd_getfd
        pidfd_send_signal tkill setpriority ioprio_set migrate_pages""",
    "no connections": "socketpair connect accept accept4",
    "what Landlock does not know of files: their owners, modes, times, attributes, numbers, and who uses them": """
        chmod fchmod fchmodat chown fchown lchown fchownat utime utimes futimesat utimensat truncate
        setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
        name_to_handle_at open_by_handle_at fanotify_init inotify_init inotify_init1""",
    "no memory or messages that others of this user share": """
        shmget shmat shmctl msgget msgsnd msgrcv msgctl semget semop semtimedop semctl mq_open mq_unlink""",
    "no other view of the file system": """
        mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
        unshare setns acct quotactl quotactl_fd swapon swapoff""",
    "the kernel's large and rarely needed parts, and the machine's settings": """
        bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl
        init_module finit_module delete_module kexec_load kexec_file_load reboot syslog settimeofday clock_settime
        adjtimex clock_adjtime sethostname setdomainname personality modify_ldt iopl ioperm vhangup uselib
        nfsservctl lookup_dcookie""",
}
# Seem to be missing, so that the C library takes the older calls: those have their arguments in registers, where a
# filter can read them. From number 451 on, calls are newer than this list.
MISSING = ("clone3", "openat2", *range(451, 512))

CLONE_THREAD = 0x10000
NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
AF_UNIX, SOCK_SEQPACKET, SOCK_TYPES = 1, 5, (1, 2, 3)  # the types of AF_UNIX but for SOCK_SEQPACKET
FIOSETOWN, SIOCSPGRP = 0x8901, 0x8902
F_SETSIG, F_SETOWN_EX = 10, 15
ALL = 0xFFFFFFFF


def _restrict_calls() -> None:
    import pyseccomp as seccomp

    refuse, missing = seccomp.ERRNO(errno.EPERM), seccomp.ERRNO(errno.ENOSYS)

    def other(argument: int, value: int) -> Any:
        return seccomp.Arg(argument, seccomp.NE, value)

    def masked(argument: int, mask: int, value: int) -> Any:
        return seccomp.Arg(argument, seccomp.MASKED_EQ, mask, value)

    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    rules.set_attr(seccomp.Attr.CTL_TSYNC, 1)
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    for names in REFUSED.values():
        for name in names.split():
            rules.add_rule(refuse, name)
    for call in MISSING:
        rules.add_rule(missing, call)

    # Threads, no processes, no namespaces.
    rules.add_rule(refuse, "clone", masked(0, CLONE_THREAD, 0))
    for flag in NAMESPACES:
        rules.add_rule(refuse, "clone", masked(0, flag, flag))

    # Other processes. The one that waits for this one must end it when the server ends.
    for call in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        rules.add_rule(refuse, call, other(0, os.getpid()))
    for call in (
        "prlimit64",
        "sched_setaffinity",
        "sched_setattr",
        "sched_setparam",
        "sched_setscheduler",
        "move_pages",
    ):
        rules.add_rule(refuse, call, other(0, 0))
    rules.add_rule(refuse, "prctl", masked(0, ALL, PR_SET_PDEATHSIG))
    # They let a descriptor send signals to any process, and a terminal read what nobody has typed.
    for command in (fcntl.F_SETOWN, F_SETOWN_EX, F_SETSIG):
        rules.add_rule(refuse, "fcntl", masked(1, ALL, command))
    for request in (FIOSETOWN, SIOCSPGRP, termios.TIOCSTI, termios.TIOCLINUX):
        rules.add_rule(refuse, "ioctl", masked(1, ALL, request))

    # Landlock takes these for opening without reading or writing.
    for call, flags in (("open", 1), ("openat", 2)):
        rules.add_rule(refuse, call, masked(flags, os.O_ACCMODE | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC))
        rules.add_rule(refuse, call, masked(flags, os.O_ACCMODE, os.O_ACCMODE))

    if HAS_GPU:
        rules.add_rule(refuse, "socket", other(0, AF_UNIX))
        for kind in SOCK_TYPES:
            rules.add_rule(refuse, "socket", masked(1, 0xF, kind))
    else:
        for call in ("socket", "bind", "listen"):
            rules.add_rule(refuse, call)
    rules.load()
