"""The key schedule and the transcript of one handshake (RFC 8446 section 7)."""

import hashlib
import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from handshaked.model import CipherSuite
from handshaked.tls.codec import push_message
from handshaked.tls.codepoints import HandshakeType

_LABELS = (
    b"derived",
    b"ext binder",
    b"res binder",
    b"c e traffic",
    b"e exp master",
    b"c hs traffic",
    b"s hs traffic",
    b"c ap traffic",
    b"s ap traffic",
    b"exp master",
    b"res master",
)


def expand_label(secret: bytes, label: bytes, context: bytes, length: int, hash_name: str) -> bytes:
    """Return HKDF-Expand-Label (RFC 8446 section 7.1)."""
    full = b"tls13 " + label
    info = length.to_bytes(2) + bytes([len(full)]) + full + bytes([len(context)]) + context
    output = block = b""
    for counter in range(1, -(-length // hashlib.new(hash_name).digest_size) + 1):
        block = hmac.digest(secret, block + info + bytes([counter]), hash_name)
        output += block
    return output[:length]


class HashProfile:
    """A hash function, with the label prefixes and secrets that depend on it alone (those without a PSK)."""

    __slots__ = (
        "_algorithm",
        "_finished",
        "_infos",
        "_resumption",
        "derived_no_psk",
        "early_no_psk",
        "empty",
        "name",
        "new",
        "size",
        "zeros",
    )

    def __init__(self, name: str, algorithm: hashes.HashAlgorithm) -> None:
        self.name = name
        self._algorithm = algorithm
        self.new = getattr(hashlib, name)
        self.size: int = self.new().digest_size
        self.empty: bytes = self.new().digest()
        # HkdfLabel: output length, label, context. Only the context is not known in advance.
        self._infos = {label: self._info(label, self.size) for label in _LABELS}
        self._finished = self._info(b"finished", 0) + b"\x01"
        self._resumption = self._info(b"resumption", 2)
        self.zeros = bytes(self.size)
        self.early_no_psk = self.early_secret(self.zeros)
        self.derived_no_psk = self.derive(self.early_no_psk, b"derived", self.empty)

    def _info(self, label: bytes, context_length: int) -> bytes:
        full = b"tls13 " + label
        return self.size.to_bytes(2) + bytes([len(full)]) + full + bytes([context_length])

    def extract(self, salt: bytes, secret: bytes) -> HMAC:
        """Return HKDF-Extract as a keyed HMAC: keying it once for all derivations halves their cost."""
        return HMAC(HKDF.extract(self._algorithm, salt, secret), self._algorithm)

    def derive(self, secret: HMAC, label: bytes, transcript_hash: bytes) -> bytes:
        """Return Derive-Secret, which is one block of HKDF-Expand."""
        block = secret.copy()
        block.update(self._infos[label] + transcript_hash + b"\x01")
        return block.finalize()

    def verify_data(self, base_secret: bytes, transcript_hash: bytes) -> bytes:
        """Return the verify_data of a Finished, or a PSK binder (RFC 8446 section 4.4.4)."""
        finished_key = HMAC(base_secret, self._algorithm)
        finished_key.update(self._finished)
        content = HMAC(finished_key.finalize(), self._algorithm)
        content.update(transcript_hash)
        return content.finalize()

    def early_secret(self, psk: bytes) -> HMAC:
        """Return the Early Secret of a PSK."""
        return self.extract(b"", psk)

    def binder(self, early_secret: HMAC, label: bytes, transcript_hash: bytes) -> bytes:
        """Return the binder of a PSK over a ClientHello without its binders (RFC 8446 section 4.2.11.2)."""
        return self.verify_data(self.derive(early_secret, label, self.empty), transcript_hash)

    def resumption_psk(self, resumption_secret: bytes, nonce: bytes) -> bytes:
        """Return the PSK of the session ticket with `nonce` (section 4.6.1)."""
        if len(nonce) == 2:
            block = HMAC(resumption_secret, self._algorithm)
            block.update(self._resumption + nonce + b"\x01")
            return block.finalize()
        return expand_label(resumption_secret, b"resumption", nonce, self.size, self.name)


SHA256 = HashProfile("sha256", hashes.SHA256())
SHA384 = HashProfile("sha384", hashes.SHA384())
PROFILES = {SHA256.name: SHA256, SHA384.name: SHA384}


def profile_of(suite: CipherSuite) -> HashProfile:
    """Return the hash function of a cipher suite."""
    return PROFILES[suite.hash_name]


class KeySchedule:
    """Transcript and secrets of one handshake, in the stages early, handshake and application (section 7.1)."""

    __slots__ = ("_secret", "_transcript", "profile", "suite")

    def __init__(self, suite: CipherSuite) -> None:
        self.suite = suite
        self.profile = profile = profile_of(suite)
        self._transcript = profile.new()
        self._secret = profile.early_no_psk

    def use_psk(self, psk: bytes) -> None:
        """Start from `psk`; in the early stage only."""
        self._secret = self.profile.early_secret(psk)

    def binder(self, label: bytes, partial_hello: bytes) -> bytes:
        """Return the binder of the PSK in use, over a ClientHello without its binders."""
        return self.profile.binder(self._secret, label, self.hash_with(partial_hello))

    def update(self, messages: bytes) -> None:
        """Add handshake messages to the transcript."""
        self._transcript.update(messages)

    def transcript_hash(self) -> bytes:
        """Return the hash of all messages so far."""
        digest: bytes = self._transcript.copy().digest()
        return digest

    def hash_with(self, messages: bytes) -> bytes:
        """Return the transcript hash with `messages` added, without adding them."""
        transcript = self._transcript.copy()
        transcript.update(messages)
        digest: bytes = transcript.digest()
        return digest

    def replace_first_hello(self) -> None:
        """Replace the first ClientHello with its hash, before a HelloRetryRequest is added (section 4.4.1)."""
        message = push_message(HandshakeType.MESSAGE_HASH, self._transcript.digest())
        self._transcript = self.profile.new(message)

    def derive(self, label: bytes, transcript_hash: bytes) -> bytes:
        """Return a secret of the current stage."""
        return self.profile.derive(self._secret, label, transcript_hash)

    def enter_handshake(self, shared_secret: bytes) -> None:
        """Go from the Early Secret to the Handshake Secret."""
        profile = self.profile
        if self._secret is profile.early_no_psk:
            salt = profile.derived_no_psk
        else:
            salt = self.derive(b"derived", profile.empty)
        self._secret = profile.extract(salt, shared_secret)

    def enter_application(self) -> None:
        """Go from the Handshake Secret to the Master Secret."""
        profile = self.profile
        salt = self.derive(b"derived", profile.empty)
        self._secret = profile.extract(salt, profile.zeros)


def updated_secret(suite: CipherSuite, secret: bytes) -> bytes:
    """Return the traffic secret after a KeyUpdate (section 7.2)."""
    profile = profile_of(suite)
    return expand_label(secret, b"traffic upd", b"", profile.size, profile.name)


def export(profile: HashProfile, exporter_secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """Return TLS-Exporter: keying material for the application (section 7.5)."""
    secret = expand_label(exporter_secret, label, profile.empty, profile.size, profile.name)
    return expand_label(secret, b"exporter", profile.new(context).digest(), length, profile.name)
