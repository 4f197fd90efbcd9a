"""Lingering sockets sent to the demultiplexer delay neither the shared port nor other applications."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from handshaked.quic.packets import SMALLEST_INITIAL, pull_long_header
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux
from handshaked.wire.demux import push_status
from tests.hostile.floods import send_lingering
from tests.hostile.honest import DAEMON, Honest, compare
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.needs("root", "public python")]

PORT = "port"
DCID, SCID = b"to server", b"of client"


def honest_client(directory: Path, _: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that asks the shared port for its versions of QUIC."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", int((directory / PORT).read_text())))
    sock.settimeout(PATIENCE)
    unknown = b"\xc0\x1a\x2a\x3a\x4a" + bytes([len(DCID)]) + DCID + bytes([len(SCID)]) + SCID
    unknown += bytes(SMALLEST_INITIAL - len(unknown))

    def operation() -> None:
        sock.send(unknown)
        header = pull_long_header(sock.recv(2000))
        assert header is not None
        assert (header.version, header.destination_cid) == (0, SCID)

    return operation


def honest_application(directory: Path, _: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that asks for the demultiplexer's counters."""

    def operation() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(directory / "demux" / "accept.sock"))
            sock.send(push_status(1))
            assert len(sock.recv(65536)) > 16

    return operation


def send_lingering_sockets(directory: Path, underway: Callable[[], None]) -> None:
    """Send them with the second packet of a connection, where none is expected."""
    send_lingering(directory / "demux" / "accept.sock", push_status(1), underway)


@pytest.mark.parametrize("honest", [honest_client, honest_application])
def test_lingering_sockets_delay_nobody_else(hostile_daemon: RunningDaemon, honest: Honest) -> None:
    """The whole port was silent for as long as the sender had chosen."""
    directory = hostile_daemon.directory
    with RunningDemux(directory, hostile_daemon, user=DAEMON) as demux:
        (directory / PORT).write_text(str(demux.port))
        compare(directory, honest, send_lingering_sockets, rounds=3, seconds=0.5).check()
        assert demux.metrics()["registry_connected"] == 1
