"""Pre-shared keys out of the kernel's keyrings: the one that a client is to use, those that a server may find."""

import logging
import re
from collections.abc import Iterator
from typing import Literal

from handshaked.errors import LocalError, Status
from handshaked.handshakes import keyring
from handshaked.tls.psk import ExternalPsk

log = logging.getLogger(__name__)

_NVME_IDENTITY = re.compile(rb"NVMe[01][RG](01|02) ")


class KeyringPsks:
    """The keys with the serials `serials`, or all those in reach if there are none. Implements ``PskSource``.

    Keys of type ``psk`` are looked for in the keyrings of the process, in the well-known and in the `named` ones, those
    of type ``user`` in `named` ones only: such a key may hold anything, a public certificate for one.
    """

    def __init__(self, serials: tuple[int, ...], named: tuple[str, ...]) -> None:
        self._serials = serials
        self._named = named
        self._found: dict[bytes, int] = {}

    def serial(self, identity: bytes) -> int | None:
        """The serial of a key that was given out."""
        return self._found.get(identity)

    def own(self) -> ExternalPsk:
        """The first of the keys named by their serials that can be read; LocalError (ENOKEY) if there is none."""
        failure = "the request names no key"
        for serial in self._serials:
            try:
                _, identity = keyring.describe_key(serial)
                return self._given(identity, serial)
            except OSError as error:
                failure = f"key {serial} cannot be read: {error.strerror}"
        raise LocalError(f"no pre-shared key: {failure}", Status.NO_KEY)

    def find(self, identity: bytes) -> ExternalPsk | None:
        """As ``PskSource.find``: the key of that description."""
        try:
            serial = self._search(identity)
            return None if serial is None else self._given(identity, serial)
        except OSError as error:
            log.info("the PSK %r cannot be used: %s", identity[:256], error.strerror)
            return None

    def _given(self, identity: bytes, serial: int) -> ExternalPsk:
        key = keyring.read_key(serial)
        self._found[identity] = serial
        return ExternalPsk(identity, key, _hash_name(identity))

    def _search(self, identity: bytes) -> int | None:
        if b"\0" in identity:  # no description has one, and it would end the string early
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


def _hash_name(identity: bytes) -> Literal["sha256", "sha384"]:
    """The hash of a PSK: NVMe/TCP says it in the identity, all others use SHA-256 (RFC 8446 section 4.2.11)."""
    match = _NVME_IDENTITY.match(identity)
    return "sha384" if match and match[1] == b"02" else "sha256"
