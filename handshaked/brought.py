"""What a caller brings for a handshake of its own: a certificate with its key, or pre-shared keys, as open files."""

from dataclasses import dataclass, field

from handshaked.errors import Alert, CallerError, RefusedError, Status
from handshaked.registry.credentials import load_pem, open_credential, read_file
from handshaked.tls.parameters import Credential
from handshaked.tls.psk import ExternalPsk

MAX_PSKS = 4096
MIN_PSK = 16  # RFC 9257 section 6: a PSK needs 128 bits of entropy


@dataclass(frozen=True, slots=True)
class Brought:
    """The content of the files; each may be missing, but a certificate and its key go together."""

    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    psk: bytes | None = field(default=None, repr=False)

    @classmethod
    def read(cls, certificate: int | None, key: int | None, psk: int | None) -> "Brought":
        """Read the files behind these descriptors; CallerError names what cannot be used."""
        try:
            return cls(_read(certificate, "certificate"), _read(key, "private key"), _read(psk, "PSK file"))
        except RefusedError as error:
            raise _unfit(str(error)) from None
        except OSError as error:
            raise _unfit(f"a file that was brought cannot be read: {error.strerror}") from None

    def credential(self) -> Credential | None:
        """The credential, if there is one; CallerError if it is unfit."""
        if self.certificate is None and self.key is None:
            return None
        if self.certificate is None or self.key is None:
            raise _unfit("a certificate and its private key go together")
        try:
            loaded = load_pem(self.certificate, self.key)
        except RefusedError as error:
            raise _unfit(str(error)) from None
        return open_credential(loaded.chain, loaded.key, loaded.key_type)

    def psks(self) -> "BroughtPsks | None":
        """The pre-shared keys, if there are any; CallerError if they are unfit."""
        return None if self.psk is None else BroughtPsks(self.psk)


class BroughtPsks:
    """Pre-shared keys, a line each: identity, a colon, the key in hexadecimal. Implements ``PskSource``."""

    def __init__(self, content: bytes) -> None:
        self._psks: dict[bytes, ExternalPsk] = {}
        for number, line in enumerate(content.splitlines(), 1):
            text = line.strip()
            if not text or text.startswith(b"#"):
                continue
            identity, _, hexadecimal = text.rpartition(b":")
            try:
                key = bytes.fromhex(hexadecimal.decode())
            except ValueError:
                key = b""
            if not identity or len(key) < MIN_PSK:
                raise _unfit(f"line {number} of the PSK file is not IDENTITY:KEY with {MIN_PSK} bytes in hexadecimal")
            self._psks[identity] = ExternalPsk(identity, key)
        if not 0 < len(self._psks) <= MAX_PSKS:
            raise _unfit(f"the PSK file has {len(self._psks)} keys, not 1 to {MAX_PSKS}")

    def find(self, identity: bytes) -> ExternalPsk | None:
        """As ``PskSource.find``."""
        return self._psks.get(identity)

    def own(self) -> ExternalPsk:
        """The first one, for a client."""
        return next(iter(self._psks.values()))


def _read(descriptor: int | None, name: str) -> bytes | None:
    if descriptor is None:
        return None
    # The caller has opened it, so the caller may read it; who else can is its owner's affair.
    return read_file(descriptor, name, secret=False)


def _unfit(reason: str) -> CallerError:
    return CallerError(Alert.INTERNAL_ERROR, reason, Status.NO_KEY)
