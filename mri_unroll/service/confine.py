"""Limits for a process that opens files of strangers: no network, and no more memory, time and disk than it was given.

The network is cut by a filter on system calls (seccomp, as ``man 2 seccomp`` describes it), which needs no privilege
and cannot be taken off again. It also keeps the process from reaching into others of the same user.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import signal
import struct
import sys

from mri_unroll.errors import DeviceError

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_MODE_FILTER = 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # classic BPF
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | errno.EACCES
_AF_UNIX = 1
_OTHER_ABI = 0x40000000  # x32 calls on x86-64
_MACHINES = {  # audit number; socket; ptrace, process_vm_readv, process_vm_writev
    "x86_64": (0xC000003E, 41, (101, 310, 311)),
    "aarch64": (0xC00000B7, 198, (117, 270, 271)),
}
_EVERYWHERE = (425, 438)  # io_uring_setup, which opens sockets by itself; pidfd_getfd


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def cut_network() -> None:
    """Take away all sockets but those within this machine's file system, from this process and its children, for good.

    Must run before the first thread starts: threads that run already would keep theirs.

    Raises
    ------
    DeviceError
        If this system cannot do it.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _MACHINES:
        raise DeviceError(
            f"Files of strangers cannot be opened safely on {sys.platform}/{machine}.", "Run the service on Linux."
        )
    audit, socket, others = _MACHINES[machine]
    denied = (*others, *_EVERYWHERE)
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _DENY), (_LOAD, 0, 0, _NUMBER)]
    program += [(_AT_LEAST, len(denied) + 3, 0, _OTHER_ABI)]
    program += [(_EQUAL, len(denied) + 2 - index, 0, number) for index, number in enumerate(denied)]
    program += [(_EQUAL, 0, 3, socket), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 1, 0, _AF_UNIX)]
    program += [(_RETURN, 0, 0, _DENY), (_RETURN, 0, 0, _ALLOW)]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    content = ctypes.create_string_buffer(code, len(code))
    pointer = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(content)))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or library.prctl(
        _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(pointer), 0, 0
    ):
        reason = errno.errorcode.get(ctypes.get_errno(), "unknown")
        raise DeviceError(
            f"The network cannot be cut off from the process that opens files ({reason}).",
            "Allow seccomp filters here.",
        )


def limit(memory: int | None, seconds: float, file_bytes: int) -> None:
    """Bound what this process may use from now on; processor time is counted over all threads.

    Parameters
    ----------
    memory
        Bytes of address space; None where it cannot be bounded: CUDA reserves more than a machine has.
    seconds
        Of processor time.
    file_bytes
        Of one file that it writes.
    """
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_CPU, max(1, int(seconds)), spare=10)  # first SIGXCPU; SIGKILL would look like lack of memory
    _bound(resource.RLIMIT_FSIZE, file_bytes)
    _bound(resource.RLIMIT_NOFILE, 1024)
    if memory is not None:
        _bound(resource.RLIMIT_AS, memory)


def _bound(kind: int, value: int, spare: int = 0) -> None:
    """Set the soft limit, and the hard one so much above it; never above what holds already."""
    _, hard = resource.getrlimit(kind)
    most = value + spare if hard == resource.RLIM_INFINITY else min(value + spare, hard)
    resource.setrlimit(kind, (min(value, most), most))
