"""Shuts the process it runs in away: namespaces, limits, files, capabilities, system calls.

Linux, standard library only. Runs inside the sandbox's own fresh interpreter, before anything untrusted is read. Each
layer is asked of the kernel and reported by name, none is assumed. Sources: unshare(2), user_namespaces(7),
mount_setattr(2), landlock(7), seccomp(2), capabilities(7), prctl(2), setrlimit(2); numbers of system calls: the
kernel's arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterable, Mapping
from typing import Any

NOBODY = 65534
_LIBC = ctypes.CDLL(None, use_errno=True)

# What may never be asked of the kernel: name to its number on (x86_64, aarch64), -1 where there is none.
_CALLS: dict[str, tuple[int, int]] = {
    # another process: none is started, none is looked at, none is signalled (kill and tgkill: only itself, below)
    "fork": (57, -1), "vfork": (58, -1), "execveat": (322, 281), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272), "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # a network, and memory that no limit counts
    "socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    # out of the namespaces, and the machine itself
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, -1),
    "ioperm": (173, -1), "personality": (135, 92), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "modify_ldt": (154, -1), "fanotify_init": (300, 262),
    # scheduling at the expense of others
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30),
    # what belongs to a file and not to its text (Landlock does not look at it)
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, -1),
    "lchown": (94, -1), "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, -1), "utimes": (235, -1),
    "utimensat": (280, 88), "futimesat": (261, -1), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip
_CHANGES: dict[str, tuple[int, int]] = {
    "creat": (85, -1), "truncate": (76, 45), "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, -1), "mkdirat": (258, 34), "rmdir": (84, -1), "unlink": (87, -1), "unlinkat": (263, 35),
    "link": (86, -1), "linkat": (265, 37), "symlink": (88, -1), "symlinkat": (266, 36), "mknod": (133, -1),
    "mknodat": (259, 33),
}  # fmt: skip
_OPEN, _OPENAT, _OPENAT2, _CLONE3 = (2, -1), (257, 56), (437, 437), (435, 435)
_CLONE, _KILL, _TGKILL, _PRLIMIT, _PRCTL, _EXECVE = (56, 220), (62, 129), (234, 131), (302, 261), (157, 167), (59, 221)

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
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - before pathlib is needed
                file.write(text)
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
    if not os.path.isdir(path):  # noqa: PTH112 - before pathlib is needed
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
    refused = [*_CALLS.values(), *([] if may_exec else [_EXECVE]), *([] if writes else _CHANGES.values())]
    absent = [_CLONE3, *([] if writes else [_OPENAT2])]  # C libraries fall back to calls whose flags can be read
    for answer, calls in ((_DENY, refused), (_NO_SUCH, absent)):
        for numbers in calls:
            if numbers[column] >= 0:
                program += [(_JEQ, 0, 1, numbers[column]), (_RET, 0, 0, answer)]
    # A call that the low half of one of its arguments decides: which, how, and the answer if it holds and if not.
    decided = [
        (_CLONE, 0, (_JSET, _CLONE_THREAD), _ALLOW, _DENY),
        (_KILL, 0, (_JEQ, os.getpid()), _ALLOW, _DENY),
        (_TGKILL, 0, (_JEQ, os.getpid()), _ALLOW, _DENY),
        (_PRLIMIT, 0, (_JEQ, 0), _ALLOW, _DENY),
        (_PRCTL, 0, (_JEQ, _PDEATHSIG), _DENY, _ALLOW),
    ]
    if not writes:
        decided += [(_OPEN, 1, (_JSET, _WRITING), _DENY, _ALLOW), (_OPENAT, 2, (_JSET, _WRITING), _DENY, _ALLOW)]
    for numbers, argument, (test, value), then, otherwise in decided:
        if numbers[column] >= 0:
            program += [(_JEQ, 0, 4, numbers[column]), (_LD, 0, 0, 16 + 8 * argument), (test, 0, 1, value)]
            program += [(_RET, 0, 0, then), (_RET, 0, 0, otherwise)]
    return [*program, (_RET, 0, 0, _ALLOW)]
