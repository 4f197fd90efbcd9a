"""Foreign peers for QUIC sockets: unmodified aioquic, and ngtcp2 with GnuTLS."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from aioquic import tls
from aioquic.tls import CipherSuite, SessionTicket
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.datapath.quic_options import ConnectionClose
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.ports import free_port
from handshaked.testing.processes import ending
from tests.handshake_channel import eventually
from tests.interop.ngtcp2 import close_of, handshake_messages
from tests.quic_socket_peers import StockServer, ask, ask_with_gtlsclient

NAME = "quic.example.com"
IDENTITY = b"someone"
PSK = b"\x5a" * 32


@dataclass(frozen=True, slots=True)
class Seen:
    """The result of a client: whether the handshake completed and data was echoed, or the error."""

    complete: bool
    close: ConnectionClose | None = None
    tickets: tuple[Any, ...] = ()


class Served(Protocol):
    """A running foreign server on ``port``, which may require client certificates."""

    @property
    def port(self) -> int: ...
    @property
    def request(self) -> bytes: ...
    @property
    def answer(self) -> bytes: ...
    @property
    def insists(self) -> bool: ...

    def shown(self, leaf: bytes) -> bool:
        """Return whether the last client sent the certificate `leaf`."""
        ...


class Foreign(Protocol):
    """A foreign implementation, as client and as server."""

    def ask(self, port: int, *, name: str = NAME, identity: Issued | None = None, ticket: Any = None) -> Seen:
        """Connect as a client, with the session ticket of an earlier connection."""
        ...

    def serve(self, issued: Issued, *, demands: bool = False) -> AbstractContextManager[Served]:
        """Return a server with `issued`, which requests client certificates if `demands`."""
        ...


# aioquic.


class _Demanding(tls.Context):
    """A server's TLS that requests client certificates."""

    def __init__(self, is_client: bool, *arguments: Any, **options: Any) -> None:
        super().__init__(is_client, *arguments, **options)
        self._request_client_certificate = not is_client


class _ExternalPsks(tls.KeySchedule):
    """External PSKs instead of tickets: only a label differs (RFC 8446 section 7.1)."""

    def derive_secret(self, label: bytes) -> bytes:
        return super().derive_secret(b"ext binder" if label == b"res binder" else label)


def external_psk() -> SessionTicket:
    """Return the PSK in the form of a ticket."""
    now = tls.utcnow()
    return SessionTicket(
        age_add=0,
        cipher_suite=CipherSuite.AES_128_GCM_SHA256,
        not_valid_before=now,
        not_valid_after=now.replace(year=now.year + 1),
        resumption_secret=PSK,
        server_name=NAME,
        ticket=IDENTITY,
    )


class ServedByAioquic(StockServer):
    """Implements Served."""

    request = answer = b"hello"
    insists = False

    def shown(self, leaf: bytes) -> bool:
        """See ``Served``."""
        certificate = self.peers[-1]._quic.tls._peer_certificate  # noqa: SLF001 - aioquic shows it in no other way
        return certificate is not None and certificate.public_bytes(Encoding.DER) == leaf


class Aioquic:
    """Implements Foreign; `patch` enables features of aioquic that its API does not expose."""

    def __init__(self, authority: Authority, patch: pytest.MonkeyPatch) -> None:
        self._root = authority.root
        self._patch = patch

    def ask(
        self, port: int, *, name: str = NAME, identity: Issued | None = None, ticket: SessionTicket | None = None
    ) -> Seen:
        """See ``Foreign``."""
        asked = ask(port, root=self._root, name=name, identity=identity, ticket=ticket, wants_ticket=ticket is None)
        seen = asyncio.run(asked)
        return Seen(seen.data == b"hello", seen.close, tuple(seen.tickets))

    def serve(self, issued: Issued, *, demands: bool = False, alpn: str = "h3") -> ServedByAioquic:
        """See ``Foreign``."""
        if demands:
            self._patch.setattr(tls, "Context", _Demanding)
        return ServedByAioquic(issued, alpn, tickets=True)

    def ask_with_psk(self, port: int) -> Seen:
        """Connect with the PSK only."""
        self._patch.setattr(tls, "KeySchedule", _ExternalPsks)
        return self.ask(port, ticket=external_psk())

    def serve_psk(self, issued: Issued) -> ServedByAioquic:
        """Return a server with the PSK; it has a certificate too, which it does not send to a client with the PSK."""
        self._patch.setattr(tls, "KeySchedule", _ExternalPsks)
        return ServedByAioquic(issued, known={IDENTITY: external_psk()})


# ngtcp2. Its client verifies nothing, its server takes any client certificate, and neither knows PSKs.

_PAGE = b"a page of ngtcp2's"
_FIELDS = b"\x00\x00\xd1\xd7\xc1\x50" + bytes((len(NAME),)) + NAME.encode()  # RFC 9204: GET https://NAME/
_REQUEST = bytes((1, len(_FIELDS))) + _FIELDS  # RFC 9114 section 7.2.2


@dataclass(frozen=True, slots=True)
class ServedByNgtcp2:
    """Implements Served, with HTTP/3."""

    port: int
    log: Path
    request: bytes = _REQUEST
    answer: bytes = _PAGE
    insists: bool = True

    def shown(self, leaf: bytes) -> bool:
        """Return whether a client sent the certificate `leaf`."""
        return leaf in handshake_messages(self.log.read_text(errors="replace"))


class Ngtcp2:
    """Implements Foreign."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def ask(self, port: int, *, name: str = NAME, identity: Issued | None = None, ticket: Any = None) -> Seen:
        """See ``Foreign``; a ticket consists of two files."""
        files = ticket or tuple(self._directory / f"{what}-{port}" for what in ("session", "parameters"))
        options = [f"--session-file={files[0]}", f"--tp-file={files[1]}", "--disable-early-data"]
        options += ["--exit-on-first-stream-close"]
        if identity is not None:
            options += [f"--cert={identity.certificate}", f"--key={identity.key}"]
        output = ask_with_gtlsclient(port, name, self._directory, *options)
        complete = "Negotiated ALPN is h3" in output and "QUIC handshake has been confirmed" in output
        return Seen(complete, close_of(output), (files,) if files[0].exists() else ())

    @contextmanager
    def serve(self, issued: Issued, *, demands: bool = False) -> Iterator[ServedByNgtcp2]:
        """See ``Foreign``."""
        pages = self._directory / "pages"
        pages.mkdir()
        (pages / "index.html").write_bytes(_PAGE)
        served = ServedByNgtcp2(free_port(), self._directory / "gtlsserver.log")
        options = [f"--htdocs={pages}", "--timeout=5s", *(["--verify-client"] if demands else [])]
        command = ["gtlsserver", *options, "127.0.0.1", str(served.port), str(issued.key), str(issued.certificate)]
        with served.log.open("wb") as log, ending(subprocess.Popen(command, stdout=log, stderr=log)) as process:
            try:
                assert eventually(lambda: f":{served.port:04X} " in Path("/proc/net/udp").read_text())
                yield served
            finally:
                process.terminate()
