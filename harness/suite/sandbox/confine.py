"""Shuts the process it runs in away, for good: namespaces, limits, files, capabilities, system calls.

Linux and standard library only. Each layer is asked of the kernel and reported by name, none is assumed. Sources:
unshare(2), user_namespaces(7), mount_setattr(2), landlock(7), seccomp(2), capabilities(7), prctl(2), setrlimit(2);
syscalls.tsv says which system calls are refused.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NOBODY = 65534
_LIBC = ctypes.CDLL(None, use_errno=True)

# Section to system call to its number on (x86_64, aarch64), -1 where there is none.
_CALLS: dict[str, dict[str, tuple[int, int]]] = {}
for _line in Path(__file__).with_name("syscalls.tsv").read_text(encoding="ascii").splitlines():
    if _line.startswith("["):
        _section = _CALLS.setdefault(_line.strip("[]"), {})
    elif _line and not _line.startswith("#"):
        _name, *_numbers = _line.split("\t")
        _section[_name] = (int(_numbers[0].replace("-", "-1")), int(_numbers[1].replace("-", "-1")))
_SPECIAL = _CALLS["special"]

_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _DENY, _NO_SUCH, _KILL_PROCESS = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
_ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLONE_THREAD = 0x10000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_NEWUSER, _NEWNS, _NEWPID, _NEWNET, _NEWIPC, _NEWUTS = 0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000
_PDEATHSIG, _NO_NEW_PRIVS = 1, 38

Instruction = tuple[int, int, int, int]


def confine(limits: Mapping[str, int], readable: Iterable[str], folder: str, *, may_exec: bool) -> list[str]:
    """Shut this process away, for good, and name the layers that are in force.

    limits: by their names in setrlimit(2), such as ``CPU`` and ``NPROC``. readable: what may be read, paths. folder:
    the empty directory that is the only place to write, where there can be one. may_exec: whether one more program may
    take this process's place (an interpreter that is not Python).

    Returns in a child that is the first process of its own PID namespace, where the kernel grants one; the outer
    process waits for it and ends as it ended. Raises OSError where a layer that was granted cannot be set up.
    """
    _prctl(_PDEATHSIG, signal.SIGKILL)
    layers = _namespaces()
    if "pid namespace" in layers:
        _into_the_namespace()
    writable = "mount namespace" in layers and _own_files(folder)
    if writable:
        layers.append("read-only files but a small temporary directory")
    _limits(limits, own_user="user namespace" in layers)
    layers.append("resource limits")
    _prctl(_NO_NEW_PRIVS, 1)
    if _landlock(readable, folder if writable else None):
        layers.append("landlock")
    if _LIBC.capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) != 0:  # capset(2), version 3: no capability at all
        raise OSError(ctypes.get_errno(), "capset")
    if _seccomp(writes=writable, may_exec=may_exec):
        layers.append("seccomp")
    return layers


def _call(number: int, *arguments: Any) -> int:
    result: int = _LIBC.syscall(ctypes.c_long(number), *arguments)
    return result


def _prctl(option: int, value: int) -> None:
    _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _namespaces() -> list[str]:
    """Leave for namespaces of our own: all of them, by a user namespace or by the right to; or none."""
    inner = _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS
    named = ["mount namespace", "pid namespace", "network namespace"]
    uid, gid = os.getuid(), os.getgid()
    if _LIBC.unshare(_NEWUSER | inner) == 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
            Path(f"/proc/self/{name}").write_text(text, encoding="ascii")
        return ["user namespace", *named]
    return named if _LIBC.unshare(inner) == 0 else []


def _into_the_namespace() -> None:
    """Become the first process of the new PID namespace: with it ends everything that it started."""
    child = os.fork()
    if child:
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
        os.closerange(0, 1024)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
    _prctl(_PDEATHSIG, signal.SIGKILL)
    os.setsid()


def _own_files(folder: str) -> bool:
    """Make everything read-only, lay a small file system over the empty folder, and show our own processes alone."""
    attributes = struct.pack("QQQQ", 1 | 2, 0, 1 << 18, 0)  # RDONLY | NOSUID, MS_PRIVATE
    if _call(442, -100, b"/", 0x8000, attributes, len(attributes)) != 0:  # mount_setattr, AT_FDCWD, AT_RECURSIVE
        return False
    flags, size = ctypes.c_ulong(2 | 4 | 8), b"size=16m,nr_inodes=1024,mode=700"  # NOSUID, NODEV, NOEXEC
    _LIBC.mount(b"proc", b"/proc", b"proc", flags, None)
    if _LIBC.mount(b"sandbox", folder.encode(), b"tmpfs", flags, size) != 0:
        return False
    os.chdir(folder)
    return True


def _limits(limits: Mapping[str, int], *, own_user: bool) -> None:
    """Set limits that cannot be raised again; a soft limit that equals the hard one ends the process at once."""
    for name, limit in {**limits, "CORE": 0}.items():
        if name != "NPROC" or own_user:  # elsewhere the number counts all of the user's other processes
            which: int = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(which)[1]
            most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(which, (most, most))


def _landlock(readable: Iterable[str], writable: str | None) -> bool:
    """Let nothing be read but `readable`, nothing be written but in `writable`; no TCP, no signals out. landlock(7)."""
    version = _call(444, None, 0, 1)
    if version < 1:
        return False
    everything = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1  # noqa: PLR2004 - of the ABI
    attributes = struct.pack("QQQ", everything, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]  # noqa: PLR2004
    rules = _call(444, attributes, len(attributes), 0)
    if rules < 0:
        return False
    for path in readable:
        _rule(rules, path, 1 | 4 | 8)
    _rule(rules, "/dev/null", 2 | 4)
    if writable is not None:
        _rule(rules, writable, everything & ~1)
    done = _call(446, rules, 0) == 0
    os.close(rules)
    return done


def _rule(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not Path(path).is_dir():
        rights &= 1 | 2 | 4
    _call(445, rules, 1, struct.pack("=Qi", rights, place), 0)
    os.close(place)


def _seccomp(*, writes: bool, may_exec: bool) -> bool:
    """Refuse the system calls that nothing here needs. False where the machine or the kernel has no such filter."""
    if platform.machine() not in _ARCHES:
        return False
    column, arch = _ARCHES[platform.machine()]
    program = _filter(column, arch, writes=writes, may_exec=may_exec)
    packed = b"".join(struct.pack("HBBI", *one) for one in program)
    kept = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(kept))
    return _call((317, 277)[column], 1, 0, header) == 0


def _filter(column: int, arch: int, *, writes: bool, may_exec: bool) -> list[Instruction]:
    """Write the filter: classic BPF over struct seccomp_data (number at 0, architecture at 4, arguments from 16)."""
    program: list[Instruction] = [(_LD, 0, 0, 4), (_JEQ, 1, 0, arch), (_RET, 0, 0, _KILL_PROCESS), (_LD, 0, 0, 0)]
    if column == 0:
        program += [(_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _DENY)]  # the x32 numbers
    never, writing = [one.values() for one in (_CALLS["never"], _CALLS["writing"])]
    refused = [*never, *([] if may_exec else [_SPECIAL["execve"]]), *([] if writes else writing)]
    absent = [_SPECIAL["clone3"], *([] if writes else [_SPECIAL["openat2"]])]  # for their kin, whose flags can be read
    for answer, calls in ((_DENY, refused), (_NO_SUCH, absent)):
        for numbers in calls:
            if numbers[column] >= 0:
                program += [(_JEQ, 0, 1, numbers[column]), (_RET, 0, 0, answer)]
    # A call that the low half of one of its arguments decides: which, how, and the answer if it holds and if not.
    decided = [
        ("clone", 0, (_JSET, _CLONE_THREAD), _ALLOW, _DENY),
        ("kill", 0, (_JEQ, os.getpid()), _ALLOW, _DENY),
        ("tgkill", 0, (_JEQ, os.getpid()), _ALLOW, _DENY),
        ("prlimit64", 0, (_JEQ, 0), _ALLOW, _DENY),
        ("prctl", 0, (_JEQ, _PDEATHSIG), _DENY, _ALLOW),
    ]
    if not writes:
        decided += [("open", 1, (_JSET, _WRITING), _DENY, _ALLOW), ("openat", 2, (_JSET, _WRITING), _DENY, _ALLOW)]
    for name, argument, (test, value), then, otherwise in decided:
        if (number := _SPECIAL[name][column]) >= 0:
            program += [(_JEQ, 0, 4, number), (_LD, 0, 0, 16 + 8 * argument), (test, 0, 1, value)]
            program += [(_RET, 0, 0, then), (_RET, 0, 0, otherwise)]
    return [*program, (_RET, 0, 0, _ALLOW)]
