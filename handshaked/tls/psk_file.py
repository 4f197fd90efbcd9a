"""Files of external pre-shared keys: one a line, the identity, a colon, and the key in hexadecimal.

Empty lines and lines that begin with ``#`` are skipped. The identity may contain colons.
"""

from handshaked.errors import UnreadableError
from handshaked.tls.psk import ExternalPsk
from handshaked.tls.x509.text_file import pull_text

MAX_PSKS = 4096
MIN_PSK = 16  # bytes; RFC 9257 section 6: a PSK needs 128 bits of entropy


class PskFile:
    """The keys of a file, at least one. Implements ``PskSource``."""

    def __init__(self, psks: dict[bytes, ExternalPsk]) -> None:
        self._psks = psks

    def find(self, identity: bytes) -> ExternalPsk | None:
        """As ``PskSource.find``."""
        return self._psks.get(identity)

    def own(self) -> ExternalPsk:
        """Return the first key, which is the one that a client uses."""
        return next(iter(self._psks.values()))


def read_psk_file(content: bytes, name: str) -> PskFile:
    """Read all keys of a file; `name` is the file's, for error texts, which never contain a key.

    UnreadableError names the line that is malformed or repeats an identity, or says that the file is UTF-16.
    """
    psks: dict[bytes, ExternalPsk] = {}
    for number, line in enumerate(pull_text(content, name).splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        identity, _, hexadecimal = text.rpartition(b":")
        try:
            key = bytes.fromhex(hexadecimal.decode())
        except ValueError:
            key = b""
        if not identity or len(key) < MIN_PSK:
            raise UnreadableError(
                f"{name}: line {number} is not IDENTITY:KEY, with a key of {MIN_PSK} bytes or more in hexadecimal"
            )
        if identity in psks:
            raise UnreadableError(f"{name}: line {number} repeats the identity of another line: remove one")
        psks[identity] = ExternalPsk(identity, key)
    if not 0 < len(psks) <= MAX_PSKS:
        raise UnreadableError(f"{name}: contains {len(psks)} keys; use 1 to {MAX_PSKS}")
    return PskFile(psks)
