"""Delivery to unmodified servers at addresses of their own (``forward``)."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from handshaked.control.files.drop_ins import read_drop_ins
from handshaked.errors import QuicError, RefusedError
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demo import ask
from handshaked.testing.demux import RunningDemux, smb_server_on_own_port
from tests.demux.clients import Target, connected, refusal
from tests.demux.conftest import DEMUX_USER
from tests.patience import PATIENCE
from tests.quic.initials import client_hello, crypto, initial

_PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


@pytest.fixture
def target(demux: RunningDemux, authority: Authority) -> Target:
    """The demultiplexer's port."""
    return Target(demux.port, authority.root)


@pytest.fixture
def backend_socket() -> socket.socket:
    """A UDP socket in place of a server."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(30)
    return sock


def test_unmodified_server_is_reached(
    demux_daemon: RunningDaemon,
    target: Target,
    register: Callable[..., None],
    issue: Callable[..., Issued],
    authority: Authority,
) -> None:
    with smb_server_on_own_port(demux_daemon) as port:
        register("web", "web.example.com", "smb", deliver=f"forward 127.0.0.1:{port}")
        seen = asyncio.run(ask(target.port, "web.example.com", ("smb",), authority.root))
        assert seen.page == "web"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_forwarding_registration_needs_no_credential(host: str, demux_daemon: RunningDaemon, target: Target) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as backend:
        backend.bind((host.strip("[]"), 0))
        backend.settimeout(30)
        demux_daemon.register(
            "bare", alpns=["h3"], server_names=["bare.example.com"], deliver=f"forward {host}:{_port(backend)}"
        )
        first = asyncio.run(_first_datagram(target, backend, "bare.example.com"))
        assert len(first) >= 1200


def test_other_registrations_need_a_credential(demux_daemon: RunningDaemon) -> None:
    with pytest.raises(RefusedError, match="certificate and key are missing"):
        demux_daemon.register("bare", alpns=["h3"], server_names=["bare.example.com"])


def test_proxy_header_precedes_the_first_datagram(
    demux_daemon: RunningDaemon, target: Target, backend_socket: socket.socket
) -> None:
    with closing(backend_socket) as backend:
        demux_daemon.register(
            "proxied",
            alpns=["h3"],
            server_names=["proxied.example.com"],
            deliver=f"forward 127.0.0.1:{_port(backend)}",
            proxy_protocol=True,
        )
        first = asyncio.run(_first_datagram(target, backend, "proxied.example.com"))
        assert first[:12] == _PROXY_SIGNATURE
        assert first[12:14] == b"\x21\x12"  # version 2, PROXY; UDP over IPv4
        assert first[14:16] == (12).to_bytes(2)
        assert first[16:24] == socket.inet_aton("127.0.0.1") * 2
        assert int.from_bytes(first[26:28]) == target.port
        assert first[28] & 0x80


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - clients use loopback
def test_forwarding_loop_is_refused(
    host: str, public_directory: Path, demux_daemon: RunningDaemon, authority: Authority
) -> None:
    with RunningDemux(public_directory, demux_daemon, user=DEMUX_USER, host=host) as demux:
        deliver = f"forward 127.0.0.1:{demux.port}"
        demux_daemon.register("loop", alpns=["h3"], server_names=["loop.example.com"], deliver=deliver)
        assert refusal(Target(demux.port, authority.root), "loop.example.com", "h3") == QuicError.CONNECTION_REFUSED
        assert 'flows_total{reason="forward"}' not in demux.metrics()


def test_unreachable_server_is_reported_immediately(
    demux_daemon: RunningDaemon, target: Target, backend_socket: socket.socket
) -> None:
    port = _port(backend_socket)
    backend_socket.close()
    demux_daemon.register("gone", alpns=["h3"], server_names=["gone.example.com"], deliver=f"forward 127.0.0.1:{port}")
    assert refusal(target, "gone.example.com", "h3") == QuicError.CONNECTION_REFUSED


async def _first_datagram(target: Target, backend: socket.socket, server_name: str) -> bytes:
    """Return the first datagram that the server at `backend` receives from a client of `server_name`."""

    async def client() -> None:
        async with connected(target, server_name, "h3"):
            pass

    task = asyncio.create_task(client())
    datagram = await asyncio.to_thread(backend.recv, 65536)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return datagram


def _port(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def test_drop_in_file_can_forward(tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text(
        '[registration.web]\nserver_names = ["web.example.com"]\nalpns = ["h3"]\ndeliver = "forward 127.0.0.1:8443"\n'
    )
    found = read_drop_ins(tmp_path)
    assert not found.problems
    wanted, _ = found.wanted["web"]
    assert wanted.policy.deliver == "forward 127.0.0.1:8443"


def test_next_subscriber_of_a_nat_gets_its_own_server(demux_daemon: RunningDaemon, target: Target) -> None:
    """The NAT gives it the address and port of the last one, whose flow is still there."""
    with ExitStack() as stack:
        backends = {}
        for name in ("first", "second"):
            backend = backends[name] = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            backend.bind(("127.0.0.1", 0))
            backend.settimeout(PATIENCE)
            demux_daemon.register(
                name, alpns=["h3"], server_names=[f"{name}.example.com"], deliver=f"forward 127.0.0.1:{_port(backend)}"
            )
        client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", target.port))
        for name, backend in backends.items():
            hello = initial(crypto(0, client_hello(f"{name}.example.com", ["h3"])), dcid=name.encode() + b" client")
            client.send(hello)
            data, address = backend.recvfrom(2000)
            assert data == hello
            cid = name.encode() + b" server"
            backend.sendto(b"\xc3\0\0\0\1\0" + bytes([len(cid)]) + cid + bytes(20), address)
            assert client.recv(2000)
            client.send(b"\x40" + cid + b"established")
            assert backend.recv(2000) == b"\x40" + cid + b"established"
