"""Credentials out of files: handed over by who registers, or opened again by the daemon under the owner rule."""

import os
from collections.abc import Sequence

from handshaked.errors import RefusedError
from handshaked.registry.credentials import LoadedCredential, load_pem, load_pkcs12, read_file, with_ocsp_response
from handshaked.registry.store import Source

MAX_CREDENTIALS = 8
CREDENTIALS_PREFIX = "$CREDENTIALS_DIRECTORY/"


def paths_of(source: Source) -> list[str]:
    """The files of `source`, in the order in which descriptors of them are handed over."""
    return [path for path in (source.certificate, source.key, source.passphrase, source.ocsp) if path]


def load_all(sources: Sequence[Source], descriptors: tuple[int, ...]) -> list[LoadedCredential]:
    """The credentials in the open files `descriptors`, which are those of `sources` in order."""
    if len(sources) > MAX_CREDENTIALS:
        raise RefusedError(f"a registration has at most {MAX_CREDENTIALS} credentials")
    if len(descriptors) != sum(len(paths_of(source)) for source in sources):
        raise RefusedError(f"{len(descriptors)} file descriptors came for the files of {len(sources)} credentials")
    left = iter(descriptors)
    return [_load(source, [next(left) for _ in paths_of(source)]) for source in sources]


def open_again(source: Source, owner: int) -> LoadedCredential:
    """The credential that lies in the files of `source` now. OSError or RefusedError if it cannot be used.

    The daemon may read more than the owner may: a link to somebody else's key must not work.
    """
    descriptors: list[int] = []
    try:
        for path in paths_of(source):
            descriptor = os.open(resolved(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            descriptors.append(descriptor)
            if owner not in (0, os.geteuid()) and os.fstat(descriptor).st_uid != owner:
                raise RefusedError(f"{path}: belongs to another user than the registration; register again")
        return _load(source, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def resolved(path: str) -> str:
    """`path`, with $CREDENTIALS_DIRECTORY (systemd's LoadCredential=) in front of it replaced."""
    if not path.startswith(CREDENTIALS_PREFIX):
        return path
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise RefusedError(f"{path}: the service has no credentials; see LoadCredential= in systemd.exec(5)")
    return os.path.join(directory, path.removeprefix(CREDENTIALS_PREFIX))


def _load(source: Source, descriptors: list[int]) -> LoadedCredential:
    left = iter(descriptors)
    holds_key = source.key in ("", source.certificate)
    certificate = read_file(next(left), source.certificate, secret=holds_key)
    key = read_file(next(left), source.key, secret=True) if source.key else b""
    passphrase = None
    if source.passphrase:
        passphrase = read_file(next(left), source.passphrase, secret=True).rstrip(b"\r\n")
    if source.key:
        loaded = load_pem(certificate, key, passphrase, names=(source.certificate, source.key))
    else:
        loaded = load_pkcs12(certificate, passphrase, name=source.certificate)
    if source.ocsp:
        response = read_file(next(left), source.ocsp, secret=False)
        return with_ocsp_response(loaded, response, name=source.ocsp)
    return loaded
