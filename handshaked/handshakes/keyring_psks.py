"""Pre-shared keys from the kernel's keyrings: the one that a client uses, and those that a server may look up."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

from handshaked.errors import LocalError, Status
from handshaked.handshakes import keyring
from handshaked.tls.psk import ExternalPsk

log = logging.getLogger(__name__)

_NVME_IDENTITY = re.compile(rb"NVMe[01][RG](01|02) ")


class KeyringPsks:
    """The keys with the serials `serials`, or, without serials, all keys that can be found. Implements ``PskSource``.

    Keys of type ``psk`` are searched for in the process and session keyrings and in the well-known and `named` ones.
    Keys of type ``user`` are searched for in `named` ones only, as they may contain anything, such as a certificate.
    """

    def __init__(self, serials: tuple[int, ...], named: tuple[str, ...]) -> None:
        self._serials = serials
        self._named = named
        self._found: dict[bytes, int] = {}

    def serial(self, identity: bytes) -> int | None:
        """Return the serial of a key that was returned before, or None."""
        return self._found.get(identity)

    def own(self) -> ExternalPsk:
        """Return the first key named by serial that can be read; LocalError (ENOKEY) if there is none."""
        failure = "the request names no key"
        for serial in self._serials:
            try:
                _, identity = keyring.describe_key(serial)
                return self._given(identity, serial)
            except OSError as error:
                failure = f"key {serial} cannot be read: {keyring.explain(error)}"
        raise LocalError(f"no pre-shared key: {failure}", Status.NO_KEY)

    def find(self, identity: bytes) -> ExternalPsk | None:
        """As ``PskSource.find``: the key whose description is `identity`."""
        try:
            serial = self._search(identity)
            return None if serial is None else self._given(identity, serial)
        except OSError as error:
            _say_unusable(identity, keyring.explain(error))
            return None

    def _given(self, identity: bytes, serial: int) -> ExternalPsk:
        key = keyring.read_key(serial)
        self._found[identity] = serial
        return ExternalPsk(identity, key, _hash_name(identity))

    def _search(self, identity: bytes) -> int | None:
        if b"\0" in identity:  # no description contains it, and it would end the C string early
            return None
        if self._serials:
            return next((serial for serial in self._serials if keyring.describe_key(serial)[1] == identity), None)
        for place, kind in self._places():
            try:
                return keyring.search_key(place, kind, identity)
            except OSError as error:
                log.debug("no key of type %s in keyring %d: %s", kind, place, error.strerror)
        return None

    def _places(self) -> Iterator[tuple[int, str]]:
        yield keyring.PROCESS_KEYRING, "psk"
        yield keyring.SESSION_KEYRING, "psk"
        for name in (*keyring.WELL_KNOWN, *self._named):
            serial = keyring.find_keyring(name)
            if serial is not None:
                yield serial, "psk"
                if name in self._named:
                    yield serial, "user"


class InvisibleKeyrings:
    """Warns once that the consumers' keyrings are out of reach: they belong to root, and others cannot see them."""

    def __init__(self) -> None:
        self._warned = False

    def warn(self, linked: Sequence[str]) -> None:
        """Take note of the keyrings that are `linked` now that a request needs a pre-shared key."""
        uid = os.geteuid()
        if uid == 0 or self._warned or not set(keyring.WELL_KNOWN).isdisjoint(linked):
            return
        self._warned = True
        log.warning(
            "pre-shared keys in the keyrings %s cannot be found: these belong to root, and the service runs as uid %d;"
            " run it as root (systemctl edit handshaked.service: User=root, Group=root)",
            ", ".join(keyring.WELL_KNOWN), uid,
        )  # fmt: skip


@lru_cache(maxsize=1024)
def _say_unusable(identity: bytes, why: str) -> None:
    """Log once: peers can name the same PSK again and again."""
    log.info("the PSK %r cannot be used: %s", identity[:256], why)


def _hash_name(identity: bytes) -> Literal["sha256", "sha384"]:
    """Return the hash of a PSK: NVMe/TCP puts it in the identity, others use SHA-256 (RFC 8446 section 4.2.11)."""
    match = _NVME_IDENTITY.match(identity)
    return "sha384" if match and match[1] == b"02" else "sha256"
