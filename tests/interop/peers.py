"""Programs of other TLS implementations as peers: started, awaited without sleeping, and stopped."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import Issued
from tests.interop.tcp import TIMEOUT
from tests.patience import PATIENCE

OPENSSL = pytest.mark.needs("openssl")
GNUTLS = pytest.mark.needs("gnutls-serv")
CURL = pytest.mark.needs("curl")


@dataclass(frozen=True)
class Files:
    """A credential as files: the chain, the key, and the chain without the leaf (`above`)."""

    chain: Path
    key: Path
    above: Path


def files(directory: Path, leaf: Issued, *above: Issued, stem: str = "leaf") -> Files:
    made = Files(directory / f"{stem}.pem", directory / f"{stem}.key", directory / f"{stem}-above.pem")
    made.chain.write_bytes(b"".join(each.pem for each in (leaf, *above)))
    made.above.write_bytes(b"".join(each.pem for each in above))
    made.key.write_bytes(leaf.key_pem)
    return made


def run(*command: object, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; its standard output and error are both in ``stdout``."""
    return subprocess.run(
        [*map(str, command)],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        check=False,
    )


@contextlib.contextmanager
def program(*command: object, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server program, from when it listens on `port` until the block ends."""
    process = subprocess.Popen(
        [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        _await_listener(process, port)
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


def _await_listener(process: subprocess.Popen[bytes], port: int) -> None:
    while process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), TIMEOUT):
            return
    raise AssertionError(process.communicate(timeout=PATIENCE)[0])
