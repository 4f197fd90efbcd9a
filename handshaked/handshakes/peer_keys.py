"""Keys with the certificates of verified peers, by whose serials consumers in the kernel know the peers."""

import hashlib
import logging

from handshaked.errors import Status
from handshaked.handshakes import keyring

log = logging.getLogger(__name__)

AUTHENTICATED = -1
"""The peer ID of an authenticated peer for which no key could be added (TLS_NO_PEERID is 0)."""
_SECONDS = 24 * 3600
_TYPE = "asymmetric"


class PeerKeys:
    """Adds keys to the keyring of the daemon's uid. They expire a day after the peer was last seen."""

    def __init__(self) -> None:
        self._problem: str | None = None
        try:
            keyring.link_user_keyring()
        except OSError as error:
            self._warn(error)

    def serial(self, peer: str, certificate: bytes) -> int:
        """Return the serial of the key with the DER `certificate` of the peer with the name or address `peer`.

        The same certificate has the same key: adding it again would replace the key whose serial other consumers hold.
        Without keyrings or quota the serial is AUTHENTICATED.
        """
        description = f"TLS x509 {peer} {hashlib.sha256(certificate).hexdigest()[:32]}"
        try:
            serial = _find(description) or keyring.add_key(_TYPE, description, certificate, keyring.USER_KEYRING)
            keyring.expire_key(serial, _SECONDS)
        except OSError as error:
            self._warn(error)
            return AUTHENTICATED
        self._problem = None
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
    Status.REFUSED: "; the session keyring must be the daemon's own (KeyringMode=private)",
    Status.NOT_PERMITTED: "; the sandbox must allow the system calls @keyring",
    Status.NO_SYSTEM_CALL: "; the kernel needs CONFIG_KEYS",
}


def _find(description: str) -> int | None:
    try:
        return keyring.search_key(keyring.USER_KEYRING, _TYPE, description.encode())
    except OSError:
        return None
