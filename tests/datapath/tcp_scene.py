"""A kernel source for TCP, consumers that take over connections like kTLS, and OpenSSL as the peer."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from handshaked.configuration.handshaked_toml import Configuration, SideDefaults
from handshaked.handshakes.kernel_tcp import KernelHandshakes
from handshaked.handshakes.service import HandshakeService
from handshaked.model import CipherSuite, Direction, KeyType, Outcome, Request, Role
from handshaked.testing.authority import Authority, Issued
from handshaked.tls.protection import RecordState
from handshaked.tls.record import RecordLayer
from handshaked.upcall.fake_kernel import FakeFamily, Report, Submission
from handshaked.upcall.kernel import KernelLimits, KernelSource
from tests.conftest import Issue
from tests.descriptors import none_left_open
from tests.patience import PATIENCE
from tests.registered import Registered

NAME = "server.example.com"
_AEADS: dict[CipherSuite, Callable[[bytes], Any]] = {
    CipherSuite.AES_128_GCM_SHA256: AESGCM,
    CipherSuite.AES_256_GCM_SHA384: AESGCM,
    CipherSuite.AES_128_CCM_SHA256: AESCCM,
    CipherSuite.CHACHA20_POLY1305_SHA256: ChaCha20Poly1305,
}


@dataclass(frozen=True, slots=True)
class Offloaded:
    """The keys that the kernel's TLS was given for a connection, which continues with them."""

    sending: RecordState
    receiving: RecordState
    max_payload: int
    no_delay: bool

    def send(self, sock: socket.socket, data: bytes) -> None:
        """Send one record of application data."""
        inner = data + b"\x17"
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2)
        sock.sendall(header + _aead(self.sending).encrypt(_nonce(self.sending), inner, header))

    def receive(self, sock: socket.socket) -> bytes:
        """Return the content of the next record, which must be application data."""
        header = _exactly(sock, 5)
        sealed = _exactly(sock, int.from_bytes(header[3:]))
        inner = _aead(self.receiving).decrypt(_nonce(self.receiving), sealed, header)
        assert inner[-1:] == b"\x17"
        return bytes(inner[:-1])


def _aead(state: RecordState) -> Any:
    return _AEADS[state.cipher_suite](state.key)


def _nonce(state: RecordState) -> bytes:
    return (int.from_bytes(state.iv) ^ state.sequence).to_bytes(12)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        assert chunk, "the connection was closed"
        data += chunk
    return data


class Scene:
    """A kernel source, the fake family that it takes requests from, and their outcomes."""

    def __init__(self, registered: Registered, configuration: Configuration) -> None:
        self.outcomes: list[Outcome] = []
        self.service = HandshakeService(registered.snapshot, registered, self._observe)
        self.family = FakeFamily()
        self.family.on_done = self._on_done
        self.family.serve_in_loop()
        kernel = KernelHandshakes(self.service, configuration, self._offload)
        self.source = KernelSource(self.family.open_link, {socket.IPPROTO_TCP: kernel.open}, KernelLimits())
        self.all_offloaded: dict[str, Offloaded] = {}
        self._submitted = 0
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []

    async def submit(self, sock: socket.socket, role: Role, **fields: Any) -> Report:
        """Submit a consumer's request for a handshake on `sock`; return its DONE."""
        due = self._submitted
        self._submitted += 1
        self.family.submit(Submission(sock, role, **fields))
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: len(self.family.reports) > due)
        return self.family.reports[due]

    def offloaded(self, sock: socket.socket) -> Offloaded:
        """Return what the kernel's TLS was given for the connection of `sock`."""
        return self.all_offloaded[_inode(sock)]

    async def close(self) -> None:
        """Close the source and the family."""
        self.source.close()
        self.family.close()
        await asyncio.gather(*self._tasks)
        assert self.service.in_flight == 0

    def _observe(self, request: Request, outcome: Outcome, seconds: float) -> None:
        self.outcomes.append(outcome)

    def _offload(self, sock: socket.socket, records: RecordLayer) -> None:
        assert not records.buffered
        no_delay = bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        states = records.state(Direction.SEND), records.state(Direction.RECEIVE)
        self.all_offloaded[_inode(sock)] = Offloaded(*states, records.max_payload, no_delay)

    def _on_done(self, report: Report) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._tasks.append(asyncio.ensure_future(notify()))


@asynccontextmanager
async def scene(
    authority: Authority,
    issue: Issue,
    *,
    client: SideDefaults | None = None,
    server: SideDefaults | None = None,
    served: Issued | None = None,
) -> AsyncIterator[Scene]:
    """Run a scene with the registration ``nfs``, with the certificate `served`; check that no descriptor is left."""
    registered = Registered(authority)
    registered.add("nfs", (KeyType.ECDSA_P256, served or issue(NAME)), names=(NAME,), alpns=(b"sunrpc",))
    registered.add("plain", (KeyType.ECDSA_P256, served or issue(NAME)), names=(NAME,), alpns=())
    configuration = Configuration(client=client or SideDefaults(trust=authority.root), server=server or SideDefaults())
    with none_left_open():
        made = Scene(registered, configuration)
        try:
            yield made
        finally:
            await made.close()


def connection(*, narrow: bool = False) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection, the consumer's and its peer's; a `narrow` one has buffers of a few KB."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if narrow:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ours = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
        if narrow:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        theirs, _ = listener.accept()
    theirs.settimeout(PATIENCE)
    return ours, theirs


@asynccontextmanager
async def connected(
    *arguments: Any, narrow: bool = False, **options: Any
) -> AsyncIterator[tuple[Scene, socket.socket, socket.socket]]:
    """Run a scene with one connection: the consumer's end, and its peer's."""
    ours, theirs = connection(narrow=narrow)
    with ours, theirs:
        async with scene(*arguments, **options) as made:
            yield made, ours, theirs


class OpenSsl:
    """OpenSSL as the peer on `sock`."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket, name: str | None = None) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=name is None, server_hostname=name)

    def shake_hands(self, data: bytes = b"") -> None:
        """Run the handshake and send `data` together with its last flight; ssl.SSLError if it is refused."""
        self._until(self.tls.do_handshake)
        if data:
            self.tls.write(data)
        self.flush()

    def read(self) -> bytes:
        """Return the next data that the peer sends."""
        return self._until(lambda: self.tls.read(65536))

    def flush(self) -> None:
        """Send the pending records."""
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())

    def _until(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.flush()
                data = self._sock.recv(65536)
                if not data:
                    self._incoming.write_eof()
                self._incoming.write(data)
            except ssl.SSLError:
                self.flush()  # an alert
                raise


def client_context(authority: Authority, identity: Issued | None = None, alpn: str | None = "sunrpc") -> ssl.SSLContext:
    """Return the context of a client that trusts `authority`."""
    context = ssl.create_default_context(cafile=str(authority.root))
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    return context


def server_context(issued: Issued, clients: Path | None = None) -> ssl.SSLContext:
    """Return the context of a server with `issued`, which requires client certificates of the authority `clients`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.load_cert_chain(issued.certificate, issued.key)
    context.set_alpn_protocols(["sunrpc"])
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _inode(sock: socket.socket) -> str:
    return os.readlink(f"/proc/self/fd/{sock.fileno()}")
