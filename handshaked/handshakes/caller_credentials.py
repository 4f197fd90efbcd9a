"""Credentials that a caller passes with a request, as open files: a certificate with its key, or pre-shared keys.

A file may be on a file system whose server (FUSE, NFS) blocks fstat, read and close for as long as it likes. Call
``CredentialFiles.read`` in a thread that may block.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from handshaked.errors import Alert, CallerError, HandshakeError, RefusedError, Status
from handshaked.registry.credentials import load_pem, open_credential
from handshaked.registry.files import read_file
from handshaked.tls.parameters import Credential
from handshaked.tls.psk_file import PskFile, read_psk_file


@dataclass(frozen=True, slots=True)
class CallerCredentials:
    """The content of the files."""

    credential: Credential | None = field(default=None, repr=False)
    psks: PskFile | None = None


NO_CREDENTIALS = CallerCredentials()


class CredentialFiles:
    """Files that a caller opened, by descriptor. The descriptors stay owned by whoever passed them here."""

    def __init__(self, certificate: int | None = None, key: int | None = None, psk: int | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._psk = psk
        self._result: CallerCredentials | HandshakeError = _unusable("the caller's files could not be read")
        self._then: Callable[[CallerCredentials | HandshakeError], None] = lambda result: None

    def when_read(self, then: Callable[[CallerCredentials | HandshakeError], None]) -> None:
        """Have ``report`` call `then` with the content of the files, or with the reason why they cannot be used."""
        self._then = then

    def read(self) -> None:
        """Read the files; may block for any time."""
        try:
            psk = _read(self._psk, "PSK file")
            psks = None if psk is None else read_psk_file(psk, "PSK file")
            self._result = CallerCredentials(self._credential(), psks)
        except RefusedError as error:
            self._result = _unusable(str(error))
        except OSError as error:
            self._result = _unusable(f"a file of the caller cannot be read: {error.strerror}")
        except HandshakeError as error:
            self._result = error

    def report(self) -> None:
        """Pass on the result of ``read``."""
        self._then(self._result)

    def _credential(self) -> Credential | None:
        certificate, key = _read(self._certificate, "certificate"), _read(self._key, "private key")
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            raise _unusable("a certificate needs its private key, and a private key its certificate: pass both")
        # Testing an RSA key's primes takes seconds of the worker's time. A bad key harms only its own caller.
        loaded = load_pem(certificate, key, check_primes=False)
        return open_credential(loaded.chain, loaded.key, loaded.key_type)


def _read(descriptor: int | None, name: str) -> bytes | None:
    if descriptor is None:
        return None
    # The caller opened the file, so it may read it; who else may read it is up to the file's owner.
    return read_file(descriptor, name, secret=False)


def _unusable(reason: str) -> CallerError:
    return CallerError(Alert.INTERNAL_ERROR, reason, Status.NO_KEY)
