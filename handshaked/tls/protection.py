"""Record protection of one direction: keys from a traffic secret, nonces, sequence numbers, AEAD limits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.model import Aead, CipherSuite
from handshaked.tls.key_schedule import expand_label

TAG_LENGTH = 16
"""Bytes that each supported AEAD adds to a record (RFC 5116, RFC 8439)."""

_IV_LENGTH = 12
_LAST_SEQUENCE = 2**64 - 1


class _Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


_IMPLEMENTATIONS: dict[Aead, Callable[[bytes], _Aead]] = {
    Aead.AES_GCM: AESGCM,
    Aead.AES_CCM: AESCCM,
    Aead.CHACHA20_POLY1305: ChaCha20Poly1305,
}


@dataclass(frozen=True, slots=True)
class RecordState:
    """Keys of one direction, for kTLS to continue with; `sequence` is that of the next record."""

    cipher_suite: CipherSuite
    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    sequence: int


class RecordProtection:
    """Seals or opens the records of one traffic secret, in order (RFC 8446 sections 5.2 and 5.3)."""

    def __init__(self, cipher_suite: CipherSuite, secret: bytes, sequence: int = 0) -> None:
        hash_name = cipher_suite.hash_name
        self._cipher_suite = cipher_suite
        # RFC 8446 section 7.3
        self._key = expand_label(secret, b"key", b"", cipher_suite.key_length, hash_name)
        self._iv = expand_label(secret, b"iv", b"", _IV_LENGTH, hash_name)
        self._iv_number = int.from_bytes(self._iv)
        self._aead = _IMPLEMENTATIONS[cipher_suite.aead](self._key)
        self._limit = cipher_suite.max_records
        self._sequence = sequence

    @property
    def sequence(self) -> int:
        """The number of records protected so far, which is the sequence number of the next."""
        return self._sequence

    def state(self) -> RecordState:
        """Return the keys and the current sequence number."""
        return RecordState(self._cipher_suite, self._key, self._iv, self._sequence)

    def seal(self, header: bytes, inner: bytes) -> bytes:
        """Return the encrypted_record of a TLSInnerPlaintext; `header` is the record's, with the final length.

        LocalError once the limit of the cipher suite is reached.
        """
        if self._sequence >= self._limit:
            raise LocalError(f"{self._limit} records were protected with one key: KeyUpdate is required")
        sealed = self._aead.encrypt(self._nonce(), inner, header)
        self._sequence += 1
        return sealed

    def open(self, header: bytes, sealed: bytes) -> bytes:
        """Return the TLSInnerPlaintext of a record. PeerError if it is not authentic: it is not counted then."""
        if self._sequence >= _LAST_SEQUENCE:  # RFC 8446 section 5.3: they must not wrap
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "sequence numbers are exhausted: the peer did not update its key")
        if len(sealed) < TAG_LENGTH:
            raise PeerError(Alert.BAD_RECORD_MAC, f"protected record of {len(sealed)} bytes is shorter than its tag")
        try:
            inner = self._aead.decrypt(self._nonce(), sealed, header)
        except InvalidTag:
            raise PeerError(Alert.BAD_RECORD_MAC, f"record {self._sequence} is not authentic") from None
        self._sequence += 1
        return inner

    def _nonce(self) -> bytes:
        return (self._iv_number ^ self._sequence).to_bytes(_IV_LENGTH)
