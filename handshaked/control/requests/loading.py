"""Credentials out of files: handed over by who registers, or opened again by the daemon under the owner rule."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from handshaked.errors import RefusedError
from handshaked.registry.credentials import LoadedCredential, load_pem, load_pkcs12, with_ocsp_response
from handshaked.registry.files import open_regular, read_file
from handshaked.registry.store import Source

MAX_CREDENTIALS = 8
CREDENTIALS_PREFIX = "$CREDENTIALS_DIRECTORY/"


def paths_of(source: Source) -> list[str]:
    """The files of `source`, in the order in which descriptors of them are handed over."""
    return [path for path in (source.certificate, source.key, source.passphrase, source.ocsp) if path]


def is_trusted(owner: int) -> bool:
    """Whether the daemon does for `owner` whatever it costs, and reads what it can."""
    return owner in (0, os.geteuid())


def read_passed(sources: Sequence[Source], descriptors: tuple[int, ...]) -> list[tuple[bytes, ...]]:
    """The contents of the open files `descriptors`, which are those of `sources` in order."""
    if len(sources) > MAX_CREDENTIALS:
        raise RefusedError(f"a registration has at most {MAX_CREDENTIALS} credentials")
    if len(descriptors) != sum(len(paths_of(source)) for source in sources):
        raise RefusedError(f"{len(descriptors)} file descriptors came for the files of {len(sources)} credentials")
    left = iter(descriptors)
    return [_read(source, [next(left) for _ in paths_of(source)]) for source in sources]


def reread(source: Source, owner: int) -> tuple[bytes, ...]:
    """What lies in the files of `source` now. OSError or RefusedError if it cannot be read for `owner`."""
    with ExitStack() as files:
        return _read(source, reopen(paths_of(source), owner, files))


def reopen(paths: Sequence[str], owner: int, files: ExitStack, *, public: bool = False) -> list[int]:
    """Descriptors of the files at `paths`, which `files` closes, if they are the owner's or, if `public`, everyone's.

    The daemon may read more than the owner may: a link to somebody else's key must not work.
    """

    def check(path: str, status: os.stat_result) -> None:
        if is_trusted(owner) or status.st_uid == owner or (public and status.st_mode & stat.S_IROTH):
            return
        raise RefusedError(f"{path}: belongs to another user than the registration; register again")

    descriptors = []
    for path in paths:
        descriptors.append(open_regular(resolved(path), lambda status, path=path: check(path, status)))  # type: ignore[misc] # bound now
        files.callback(os.close, descriptors[-1])
    return descriptors


def resolved(path: str) -> str:
    """`path`, with $CREDENTIALS_DIRECTORY (systemd's LoadCredential=) in front of it replaced."""
    if not path.startswith(CREDENTIALS_PREFIX):
        return path
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise RefusedError(f"{path}: the service has no credentials; see LoadCredential= in systemd.exec(5)")
    return os.path.join(directory, path.removeprefix(CREDENTIALS_PREFIX))


def load(source: Source, contents: tuple[bytes, ...]) -> LoadedCredential:
    """The credential in `contents`, which are those of the files of `source` in order."""
    left = iter(contents)
    certificate = next(left)
    key = next(left) if source.key else b""
    passphrase = next(left).rstrip(b"\r\n") if source.passphrase else None
    if source.key:
        loaded = load_pem(certificate, key, passphrase, names=(source.certificate, source.key))
    else:
        loaded = load_pkcs12(certificate, passphrase, name=source.certificate)
    if source.ocsp:
        return with_ocsp_response(loaded, next(left), name=source.ocsp)
    return loaded


def _read(source: Source, descriptors: Sequence[int]) -> tuple[bytes, ...]:
    return tuple(
        read_file(descriptor, path, secret=secret)
        for descriptor, (path, secret) in zip(descriptors, _files(source), strict=True)
    )


def _files(source: Source) -> Iterator[tuple[str, bool]]:
    """The files of `source`, each with whether it is secret."""
    yield source.certificate, source.key in ("", source.certificate)
    for path, secret in ((source.key, True), (source.passphrase, True), (source.ocsp, False)):
        if path:
            yield path, secret
