"""libhandshaked with daemons that are absent, silent, or send malformed messages."""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from handshaked.errors import WireError
from handshaked.model import CipherSuite, Outcome
from handshaked.wire.family import push_done
from handshaked.wire.netlink import push_ack, push_error
from tests.c.programs import NAME, Run
from tests.patience import PATIENCE
from tests.quic_socket_peers import in_thread

pytestmark = pytest.mark.needs("cc", "make", "nm")


@pytest.fixture
def run_with_answers(run: Run, tmp_path: Path) -> Run:
    """Runs a program with a daemon that answers with packets and then closes or hangs; returns its output."""

    def start(*packets: bytes, options: Sequence[str] = (), hangs: bool = False) -> str:
        path = tmp_path / os.urandom(4).hex()
        ours, theirs = socket.socketpair()
        with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()

            def answer() -> None:
                sock, _ = listener.accept()
                with sock:
                    sock.recv(65536)
                    for packet in packets:
                        sock.send(packet)
                    if not hangs:
                        sock.shutdown(socket.SHUT_WR)
                    sock.recv(65536)  # returns when the program closes

            answering = in_thread(answer)
            command = ("handshake", "server", ours.fileno(), "poll=1", *options)
            printed = run(*command, descriptor=ours.fileno(), HANDSHAKED_SOCKET=str(path))
            answering.result(PATIENCE)
            return printed

    return start


def frame(command: int, attributes: bytes, family: int = 32) -> bytes:
    return struct.pack("=IHHIIBBxx", 20 + len(attributes), family, 0, 1, 0, command, 1) + attributes


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


DONE, SECRET, SESSION_TICKET = 5, 3, 8
STATUS = 1


def ended_with(status: int) -> bytes:
    return frame(DONE, attribute(STATUS, struct.pack("=I", status)))


def error_with(error: int) -> bytes:
    return struct.pack("=IHHIIiIHHII", 36, 2, 0, 1, 0, error, 16, 0, 0, 1, 0)


ANSWERS = {
    "no message": (b"?", errno.EPROTO),
    "truncated": (frame(DONE, b"")[:-1], errno.EPROTO),
    "trailing junk": (frame(DONE, attribute(STATUS, bytes(4)) + b"\x01\0\0\0"), errno.EPROTO),
    "wrong family": (frame(DONE, attribute(STATUS, bytes(4)), family=999), errno.EPROTO),
    "longer than a packet": (bytes(128 * 1024 + 1), errno.EPROTO),
    "status of two bytes": (frame(DONE, attribute(STATUS, bytes(2))), errno.EPROTO),
    "no status": (frame(DONE, b""), errno.EIO),
    "status minus one": (ended_with(0xFFFFFFFF), errno.EIO),
    "status 2^31": (ended_with(0x80000000), errno.EIO),
    "status EAGAIN": (ended_with(errno.EAGAIN), errno.EIO),
    "error -2^31": (error_with(-(2**31)), errno.EIO),
    "positive error": (error_with(errno.EPERM), errno.EIO),
    "error": (error_with(-errno.EPERM), errno.EPERM),
    "truncated error": (struct.pack("=I", 20) + error_with(-errno.EPERM)[4:20], errno.EPROTO),
    "secret too long": (frame(SECRET, attribute(4, bytes(49))), errno.EPROTO),
    "no secret": (frame(SECRET, b""), errno.EPROTO),
}


@pytest.mark.parametrize(("packet", "status"), ANSWERS.values(), ids=ANSWERS.keys())
def test_malformed_answer_ends_handshake_with_errno(run_with_answers: Run, packet: bytes, status: int) -> None:
    assert run_with_answers(packet).startswith(f"{-status} ")


def test_closed_connection_is_econnreset(run_with_answers: Run) -> None:
    assert run_with_answers().startswith(f"{-errno.ECONNRESET} ")


def test_error_text_becomes_reason(run_with_answers: Run) -> None:
    packet = push_error(1, WireError("is not a socket", attribute="socket"))
    assert run_with_answers(packet).endswith("reason=socket: is not a socket")


def test_messages_after_the_end_are_ignored(run_with_answers: Run) -> None:
    """A late message of another family was handled as an error and written to a result that no longer existed."""
    late = [frame(SESSION_TICKET, b"", family=999), ended_with(0), frame(SESSION_TICKET, b""), b"?"]
    printed = run_with_answers(ended_with(errno.EACCES), *late, options=["late=1"])
    assert printed.startswith(f"{-errno.EACCES} ")


def test_result_has_every_field_of_done(run_with_answers: Run) -> None:
    outcome = Outcome(
        status=0,
        reason="",
        alpn=b"smb",
        server_name=NAME,
        registration="web",
        cipher_suite=CipherSuite.AES_128_GCM_SHA256,
        resumed=True,
        early_data_accepted=True,
        peer_certificates=(b"leaf", b"above"),
        tags=("first", "second"),
    )
    assert run_with_answers(push_done(1, outcome)) == (
        f"0 alert=-1 alpn=smb registration=web name={NAME} suite=1301 resumed=1 early=1 "
        "tags=first,second, peer=4 reason="
    )


def test_full_accept_queue_is_a_timeout(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, ExitStack() as waiting:
        listener.bind(str(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                one = waiting.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                one.setblocking(False)
                one.connect(str(path))
        printed = run("handshake", "server", ours.fileno(), f"socket={path}", descriptor=ours.fileno())
    assert printed.startswith(f"{-errno.ETIMEDOUT} ")
    assert printed.endswith(f"cannot connect to the handshake daemon at {path}")


def test_silent_daemon_is_a_timeout(run_with_answers: Run) -> None:
    assert run_with_answers(push_ack(1), options=["timeout=1"], hangs=True).startswith(f"{-errno.ETIMEDOUT} ")


def test_socket_path_overrides_environment(run: Run, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        printed = run("handshake", "server", ours.fileno(), f"socket={tmp_path / 'no'}", descriptor=ours.fileno())
    assert printed.startswith(f"{-errno.ENOENT} ")
