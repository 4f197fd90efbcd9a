"""The kernel's keyrings (keyrings(7)), by system call: reading keys by serial, and adding keys for verified peers.

Consumers in the kernel refer to keys by serial only. No call here blocks.
"""

import ctypes
import logging
import os
import platform
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from handshaked.errors import Status

log = logging.getLogger(__name__)

PROCESS_KEYRING = -2
SESSION_KEYRING = -3
USER_KEYRING = -4
WELL_KNOWN = (".nvme", ".nfs", ".nfsd")
"""Keyrings in which consumers in the kernel keep the keys that they name in requests."""
KEYS = Path("/proc/keys")
"""The kernel's list of the keys that a process may view; missing in kernels without keyrings."""

MAX_KEY = 1 << 20
_ADD_KEY, _KEYCTL = {"aarch64": (217, 219), "riscv64": (217, 219)}.get(platform.machine(), (248, 250))
_SET_PERMISSIONS = 5
_POSSESSOR_AND_OWNER = 0x3F3F0000
_LINK = 8
_UNLINK = 9
_DESCRIBE = 6
_SEARCH = 10
_READ = 11
_SET_TIMEOUT = 15
_libc = ctypes.CDLL(None, use_errno=True)


def read_key(serial: int) -> bytes:
    """Return the payload of a key; OSError if it cannot be read (ENOKEY, EKEYEXPIRED, EKEYREVOKED, EACCES)."""
    return _sized(_READ, serial)


def describe_key(serial: int) -> tuple[str, bytes]:
    """Return the type and the description of a key; OSError as above."""
    kind, _, _, _, description = _sized(_DESCRIBE, serial).rstrip(b"\0").split(b";", 4)
    return kind.decode(), description


def search_key(keyring: int, kind: str, description: bytes) -> int:
    """Return the serial of a key in `keyring` or a keyring linked to it; OSError (ENOKEY) if there is none."""
    return _keyctl(_SEARCH, ctypes.c_int(keyring), kind.encode(), description, ctypes.c_int(0))


def add_key(kind: str, description: str, payload: bytes, keyring: int) -> int:
    """Add a key, or replace the one with that description, and return its serial."""
    return _checked(
        _libc.syscall(
            ctypes.c_long(_ADD_KEY), kind.encode(), description.encode(), payload, ctypes.c_size_t(len(payload)),
            ctypes.c_int(keyring),
        )
    )  # fmt: skip


def link_key(serial: int, keyring: int) -> None:
    """Link a key or keyring to `keyring`, which replaces a key with the same type and description there."""
    _keyctl(_LINK, ctypes.c_int(serial), ctypes.c_int(keyring))


def unlink_key(serial: int, keyring: int) -> None:
    """Remove a key or keyring from `keyring`."""
    _keyctl(_UNLINK, ctypes.c_int(serial), ctypes.c_int(keyring))


def permit_owner(serial: int) -> None:
    """Permit everything to the key's uid. By default only the possessor of a key may search it or set its timeout."""
    _keyctl(_SET_PERMISSIONS, ctypes.c_int(serial), ctypes.c_uint(_POSSESSOR_AND_OWNER))


def expire_key(serial: int, seconds: int) -> None:
    """Have the kernel drop a key after `seconds`."""
    _keyctl(_SET_TIMEOUT, ctypes.c_int(serial), ctypes.c_uint(seconds))


def explain(error: OSError) -> str:
    """Return why a key or keyring cannot be used, and the remedy if permissions are missing."""
    if error.errno != Status.REFUSED:
        return str(error.strerror)
    uid = os.geteuid()
    remedy = "use keyctl setperm, or name its keyring in keyrings below [kernel]"
    if uid != 0:
        remedy = f"if it belongs to root, run the service as root (now: uid {uid}), or use keyctl setperm"
    return f"{error.strerror}; {remedy}"


def find_keyring(name: str) -> int | None:
    """Return the serial of the keyring called `name`, or None if this process cannot see it."""
    return _keyrings((name,)).get(name)


def link_keyrings(names: Sequence[str]) -> list[str]:
    """Link the keyrings called `names` to the session keyring, to read their keys; return the names of those linked."""
    linked = []
    for name, serial in _keyrings(names).items():
        try:
            link_key(serial, SESSION_KEYRING)
        except OSError as error:
            log.warning("keyring %s cannot be linked: %s", name, explain(error))
        else:
            linked.append(name)
    return linked


def _keyrings(names: Sequence[str]) -> dict[str, int]:
    """Return the serials of the keyrings called `names` that this process may see, in the order of `names`.

    Keyrings of users other than root and this process's are left out, as their owners choose the keys in them.
    """
    found: dict[str, int] = {}
    try:
        lines = KEYS.read_text(errors="replace").splitlines()
    except OSError as error:
        log.debug("%s: %s", KEYS, error.strerror)
        return {}
    for line in lines:
        fields = line.split(None, 8)
        if len(fields) != 9 or fields[7] != "keyring":
            continue
        name, owner = fields[8].rpartition(":")[0], int(fields[5])
        if owner in (0, os.geteuid()):
            found.setdefault(name, int(fields[0], 16))
        elif name in names:
            _warn_of_foreign(name, owner)
    return {name: found[name] for name in names if name in found}


@lru_cache(maxsize=1024)
def _warn_of_foreign(name: str, owner: int) -> None:
    """Warn once: every request looks for keyrings."""
    log.warning("keyring %s of uid %d is ignored: it must belong to root or to the daemon's user", name, owner)


class RequestKeyrings:
    """Links keyrings while requests that name them run."""

    def __init__(self) -> None:
        self._users: Counter[int] = Counter()

    def use(self, keyring: int) -> None:
        """Link `keyring` for a request; OSError if it cannot be linked."""
        if not self._users[keyring]:
            link_key(keyring, PROCESS_KEYRING)
        self._users[keyring] += 1

    def release(self, keyring: int) -> None:
        """Unlink `keyring` unless other requests use it."""
        self._users[keyring] -= 1
        if self._users[keyring] > 0:
            return
        del self._users[keyring]
        try:
            unlink_key(keyring, PROCESS_KEYRING)
        except OSError as error:
            log.debug("keyring %d is already gone: %s", keyring, error.strerror)


def _sized(operation: int, serial: int) -> bytes:
    """Return the result of an operation that fills a buffer; repeat it with a larger one if it does not fit."""
    size = 256
    while size <= MAX_KEY:
        buffer = ctypes.create_string_buffer(size)
        length = _keyctl(operation, ctypes.c_int(serial), buffer, ctypes.c_size_t(size))
        if length <= size:
            return buffer.raw[:length]
        size = length
    raise OSError(Status.TOO_LONG, f"a key of {size} bytes, the limit is {MAX_KEY}")


def _keyctl(operation: int, *arguments: object) -> int:
    return _checked(_libc.syscall(ctypes.c_long(_KEYCTL), ctypes.c_int(operation), *arguments))


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
