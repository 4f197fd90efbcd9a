"""What a caller brings for a handshake of its own: a certificate with its key, or pre-shared keys, as open files.

Whoever serves a file (FUSE, or a server far away) may have fstat, read and close wait for as long as it likes. So all
three are for a thread that may wait.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from handshaked.errors import Alert, CallerError, HandshakeError, RefusedError, Status
from handshaked.registry.credentials import load_pem, open_credential
from handshaked.registry.files import read_file
from handshaked.tls.parameters import Credential
from handshaked.tls.psk import ExternalPsk

MAX_PSKS = 4096
MIN_PSK = 16  # RFC 9257 section 6: a PSK needs 128 bits of entropy


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


@dataclass(frozen=True, slots=True)
class Brought:
    """What was in the files."""

    credential: Credential | None = field(default=None, repr=False)
    psks: BroughtPsks | None = None


NOTHING = Brought()


class Files:
    """Files that a caller has opened, by their descriptors; they stay whoever's they are."""

    def __init__(self, certificate: int | None = None, key: int | None = None, psk: int | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._psk = psk
        self._brought: Brought | HandshakeError = _unfit("the files that were brought could not be read")
        self._then: Callable[[Brought | HandshakeError], None] = lambda brought: None

    def when_read(self, then: Callable[[Brought | HandshakeError], None]) -> None:
        """Have ``tell`` call `then` with what was in the files, or with why it cannot be used."""
        self._then = then

    def read(self) -> None:
        """Read the files, which may take any time."""
        try:
            psk = _read(self._psk, "PSK file")
            self._brought = Brought(self._credential(), None if psk is None else BroughtPsks(psk))
        except RefusedError as error:
            self._brought = _unfit(str(error))
        except OSError as error:
            self._brought = _unfit(f"a file that was brought cannot be read: {error.strerror}")
        except HandshakeError as error:
            self._brought = error

    def tell(self) -> None:
        """Pass on what was read."""
        self._then(self._brought)

    def _credential(self) -> Credential | None:
        certificate, key = _read(self._certificate, "certificate"), _read(self._key, "private key")
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            raise _unfit("a certificate and its private key go together")
        # To check primes would keep all others of the worker waiting; that one is none harms whoever brought it.
        loaded = load_pem(certificate, key, check_primes=False)
        return open_credential(loaded.chain, loaded.key, loaded.key_type)


def _read(descriptor: int | None, name: str) -> bytes | None:
    if descriptor is None:
        return None
    # The caller has opened it, so the caller may read it; who else can is its owner's affair.
    return read_file(descriptor, name, secret=False)


def _unfit(reason: str) -> CallerError:
    return CallerError(Alert.INTERNAL_ERROR, reason, Status.NO_KEY)
