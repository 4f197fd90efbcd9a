"""Keys that contain the certificates of verified peers. Consumers in the kernel identify peers by the keys' serials."""

import hashlib
import logging

from handshaked.errors import Status
from handshaked.handshakes import keyring

log = logging.getLogger(__name__)

AUTHENTICATED = -1
"""The peer ID of an authenticated peer for which no key could be added (TLS_NO_PEERID is 0)."""
_SECONDS = 24 * 3600
_TYPE = "asymmetric"
_TYPE_ELSEWHERE = "user"
"""The type of keys in kernels without CONFIG_ASYMMETRIC_KEY_TYPE."""


class PeerKeys:
    """Adds keys to the keyring of the daemon's uid. They expire a day after the peer was last seen."""

    def __init__(self) -> None:
        self._type = _TYPE
        self._problem: str | None = None

    def serial(self, peer: str, certificate: bytes) -> int:
        """Return the serial of the key with the DER `certificate` of the peer with the name or address `peer`.

        The same certificate has the same key: adding it again would replace the key whose serial other consumers hold.
        Without keyrings or quota the serial is AUTHENTICATED.
        """
        description = f"TLS x509 {peer} {hashlib.sha256(certificate).hexdigest()[:32]}"
        try:
            serial = self._find(description) or self._add(description, certificate)
            keyring.expire_key(serial, _SECONDS)
        except OSError as error:
            self._warn(error)
            return AUTHENTICATED
        self._problem = None
        return serial

    def _find(self, description: str) -> int | None:
        try:
            return keyring.search_key(keyring.USER_KEYRING, self._type, description.encode())
        except OSError:
            return None

    def _add(self, description: str, certificate: bytes) -> int:
        try:
            serial = keyring.add_key(self._type, description, certificate, keyring.PROCESS_KEYRING)
        except OSError as error:
            if error.errno != Status.NO_DEVICE or self._type == _TYPE_ELSEWHERE:
                raise
            self._type = _TYPE_ELSEWHERE
            return self._find(description) or self._add(description, certificate)
        try:
            # While the process possesses the key; it does not possess those in the keyring of its uid.
            keyring.permit_owner(serial)
            keyring.link_key(serial, keyring.USER_KEYRING)
        finally:
            keyring.unlink_key(serial, keyring.PROCESS_KEYRING)
        return serial

    def _warn(self, error: OSError) -> None:
        """Log a problem once, until it has been solved."""
        if self._problem != error.strerror:
            self._problem = error.strerror
            log.warning(
                "consumers in the kernel get no keys with the certificates of their peers: %s%s", error.strerror,
                _FIXES.get(error.errno or 0, ""),
            )  # fmt: skip


_FIXES = {
    Status.QUOTA: "; raise kernel.keys.maxkeys and kernel.keys.maxbytes (sysctl), or run the service as root",
    Status.NOT_PERMITTED: "; the sandbox must allow the system calls @keyring",
    Status.NO_SYSTEM_CALL: "; the kernel needs CONFIG_KEYS",
}
