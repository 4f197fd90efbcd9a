"""Load credentials from files that the caller passes as descriptors, or that the daemon reopens for the owner."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from handshaked.errors import RefusedError
from handshaked.registry.credentials import LoadedCredential, load_pem, load_pkcs12, with_ocsp_response
from handshaked.registry.files import open_regular, read_file
from handshaked.registry.store import Source
from handshaked.tls.x509.text_file import BYTE_ORDER_MARK

MAX_CREDENTIALS = 8
CREDENTIALS_PREFIX = "$CREDENTIALS_DIRECTORY/"


def paths_of(source: Source) -> list[str]:
    """Return the paths of the files of `source`, in the order in which their descriptors are passed."""
    return [path for path in (source.certificate, source.key, source.passphrase, source.ocsp) if path]


def is_trusted(owner: int) -> bool:
    """Return whether `owner` is root or the daemon's user, for whom neither cost nor file ownership is checked."""
    return owner in (0, os.geteuid())


def read_passed(sources: Sequence[Source], descriptors: tuple[int, ...]) -> list[tuple[bytes, ...]]:
    """Return the contents of the open files `descriptors`, which are those of `sources` in order."""
    if len(sources) > MAX_CREDENTIALS:
        raise RefusedError(f"a registration has at most {MAX_CREDENTIALS} credentials")
    expected = sum(len(paths_of(source)) for source in sources)
    if len(descriptors) != expected:
        raise RefusedError(
            f"{len(descriptors)} descriptors were passed for {expected} credential files; pass one for each"
        )
    left = iter(descriptors)
    return [_read(source, [next(left) for _ in paths_of(source)]) for source in sources]


def reread(source: Source, owner: int) -> tuple[bytes, ...]:
    """Open and read the files of `source` for `owner`. OSError or RefusedError if `owner` may not read them."""
    with ExitStack() as files:
        return _read(source, reopen(paths_of(source), owner, files))


def reopen(paths: Sequence[str], owner: int, files: ExitStack, *, public: bool = False) -> list[int]:
    """Open the files at `paths`; `files` closes them. They must belong to `owner` or, if `public`, be world-readable.

    The daemon can read more files than the owner: a link to the key of another user must not work.
    """

    def check(path: str, status: os.stat_result) -> None:
        if is_trusted(owner) or status.st_uid == owner or (public and status.st_mode & stat.S_IROTH):
            return
        raise RefusedError(
            f"{path}: belongs to another user than the registration; change its owner, or register again"
        )

    descriptors = []
    for path in paths:
        descriptors.append(open_regular(resolved(path), lambda status, path=path: check(path, status)))  # type: ignore[misc] # bound now
        files.callback(os.close, descriptors[-1])
    return descriptors


def resolved(path: str) -> str:
    """Return `path` with a leading $CREDENTIALS_DIRECTORY (systemd's LoadCredential=) replaced."""
    if not path.startswith(CREDENTIALS_PREFIX):
        return path
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise RefusedError(f"{path}: $CREDENTIALS_DIRECTORY is not set; see LoadCredential= in systemd.exec(5)")
    return os.path.join(directory, path.removeprefix(CREDENTIALS_PREFIX))


def load(source: Source, contents: tuple[bytes, ...]) -> LoadedCredential:
    """Return the credential in `contents`, which are those of the files of `source` in order."""
    left = iter(contents)
    certificate = next(left)
    key = next(left) if source.key else b""
    passphrase = pull_passphrase(next(left)) if source.passphrase else None
    if source.key:
        loaded = load_pem(certificate, key, passphrase, names=(source.certificate, source.key))
    else:
        loaded = load_pkcs12(certificate, passphrase, name=source.certificate)
    if source.ocsp:
        return with_ocsp_response(loaded, next(left), name=source.ocsp)
    return loaded


def pull_passphrase(content: bytes) -> bytes:
    """Return the passphrase in a file: its bytes, without a byte order mark and the end of the line."""
    return content.removeprefix(BYTE_ORDER_MARK).rstrip(b"\r\n")


def _read(source: Source, descriptors: Sequence[int]) -> tuple[bytes, ...]:
    return tuple(
        read_file(descriptor, path, secret=secret)
        for descriptor, (path, secret) in zip(descriptors, _files(source), strict=True)
    )


def _files(source: Source) -> Iterator[tuple[str, bool]]:
    """Yield the paths of the files of `source`, each with whether it is secret."""
    yield source.certificate, source.key in ("", source.certificate)
    for path, secret in ((source.key, True), (source.passphrase, True), (source.ocsp, False)):
        if path:
            yield path, secret
