"""Capabilities of this process (capabilities(7)): having them, giving them up, and errors for want of one."""

import ctypes
import enum
import os
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from handshaked.errors import Status


class Capability(enum.IntEnum):
    """The capabilities that the programs use, by number."""

    DAC_READ_SEARCH = 2
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    SYS_ADMIN = 21


CAPSET_ADVICE = "if the service runs as root, add SystemCallFilter=capset to its unit"
"""Advice for the log when ``keep_only`` fails."""

_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_LOWER = 3
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION = 0x20080522  # of the layout: two sets of 32 capabilities each
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable; first the lower 32, then the upper
_libc = ctypes.CDLL(None, use_errno=True)


def has(capability: Capability) -> bool:
    """Return whether `capability` is effective."""
    return bool(_sets()["CapEff"] >> capability & 1)


def explain(error: OSError, capability: Capability) -> str:
    """Return the text of `error`, with `capability` if the call was refused because this process lacks it."""
    refused = error.errno in (Status.REFUSED, Status.NOT_PERMITTED)
    hint = f"; CAP_{capability.name} is missing" if refused and not has(capability) else ""
    return f"{error.strerror or error}{hint}"


@contextmanager
def passing_on(capabilities: Collection[Capability]) -> Iterator[None]:
    """Let programs that this thread executes in the block have these capabilities only, as with ``pass_on``."""
    before = _sets()["CapAmb"]
    pass_on(capabilities)
    try:
        yield
    finally:
        for number in _numbers(before & ~_sets()["CapAmb"]):
            _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0), "passed on again")


def pass_on(capabilities: Collection[Capability]) -> None:
    """Let programs that this thread executes have these capabilities only; it keeps its own. OSError if refused.

    Applies to threads that it starts as well. Programs of root get all capabilities nevertheless: see ``keep_only``.
    """
    for number in _numbers(_sets()["CapAmb"] & ~_mask(capabilities)):
        _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, number, 0, 0))


def keep_only(capabilities: Collection[Capability]) -> None:
    """Give up all other capabilities for good, for this thread, those that it starts, and programs that they execute.

    OSError if there are others and capset(2) is refused, which a service's filter of system calls may do.
    """
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))  # or a program of root would get all of them back
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    permitted = _sets()["CapPrm"]
    kept = permitted & _mask(capabilities)
    if kept != permitted:
        low, high = kept & 0xFFFFFFFF, kept >> 32
        _check(_libc.capset(_HEADER.pack(_VERSION, 0), _SETS.pack(low, low, 0, high, high, 0)))


def _mask(capabilities: Collection[Capability]) -> int:
    return sum(1 << capability for capability in set(capabilities))


def _numbers(mask: int) -> Iterator[int]:
    return (number for number in range(mask.bit_length()) if mask >> number & 1)


def _check(result: int, change: str = "given up") -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capabilities cannot be {change}: {os.strerror(number)}")


def _sets() -> dict[str, int]:
    """Return the capability sets of this thread by their name in /proc."""
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    fields = (line.partition(":") for line in lines if line.startswith("Cap"))
    return {name: int(value, 16) for name, _, value in fields}
