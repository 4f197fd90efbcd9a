"""libhandshaked with daemons that are absent, silent, or send malformed messages."""

import errno
import socket
import struct
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from handshaked.errors import WireError
from handshaked.model import CipherSuite, Outcome
from handshaked.wire.family import push_done
from handshaked.wire.netlink import push_ack, push_error
from tests.c.fake_daemon import (
    CRYPTO,
    DONE,
    LOOKUP,
    SESSION_TICKET,
    TRANSPORT_PARAMETERS,
    attribute,
    close,
    crypto,
    ended_with,
    error_with,
    frame,
    number,
    secret,
)
from tests.c.programs import NAME, Run

pytestmark = pytest.mark.needs("cc", "make", "nm")


STATUS = number(1, 0)
ANSWERS = {
    "no message": (b"?", errno.EPROTO),
    "truncated": (frame(DONE, b"")[:-1], errno.EPROTO),
    "trailing junk": (frame(DONE, STATUS + b"\x01\0\0\0"), errno.EPROTO),
    "wrong family": (frame(DONE, STATUS, family=999), errno.EPROTO),
    "wrong version": (frame(DONE, STATUS, version=2), errno.EPROTO),
    "unknown command": (frame(99, STATUS), errno.EPROTO),
    "answer to no lookup": (frame(LOOKUP, STATUS), errno.EPROTO),
    "longer than a packet": (bytes(128 * 1024 + 1), errno.EPROTO),
    "status of two bytes": (frame(DONE, attribute(1, bytes(2))), errno.EPROTO),
    "no status": (frame(DONE, b""), errno.EPROTO),
    "two statuses": (frame(DONE, number(1, errno.EACCES) + STATUS), errno.EPROTO),
    "status minus one": (ended_with(0xFFFFFFFF), errno.EIO),
    "status 2^31": (ended_with(0x80000000), errno.EIO),
    "status EAGAIN": (ended_with(errno.EAGAIN), errno.EIO),
    "alert of one byte": (frame(DONE, STATUS + attribute(32, b"\x28")), errno.EPROTO),
    "QUIC error 2^31": (frame(DONE, STATUS + number(41, 2**31)), errno.EPROTO),
    "close during the handshake": (close(), errno.EPROTO),
    "alert 256": (frame(DONE, STATUS + number(32, 256)), errno.EPROTO),
    "cipher suite of two bytes": (frame(DONE, STATUS + attribute(37, b"\x13\x01")), errno.EPROTO),
    "resumed with content": (frame(DONE, STATUS + number(38, 0)), errno.EPROTO),
    "NUL in the ALPN": (frame(DONE, STATUS + attribute(34, b"h3\0x")), errno.EPROTO),
    "newline in a tag": (frame(DONE, STATUS + attribute(4, b"guest\nadmin\0")), errno.EPROTO),
    "escape sequence in the reason": (frame(DONE, STATUS + attribute(33, b"\x1b[2J\0")), errno.EPROTO),
    "server name too long": (frame(DONE, STATUS + attribute(35, b"a" * 256)), errno.EPROTO),
    "error -2^31": (error_with(-(2**31)), errno.EIO),
    "positive error": (error_with(errno.EPERM), errno.EIO),
    "error": (error_with(-errno.EPERM), errno.EPERM),
    "truncated error": (struct.pack("=I", 20) + error_with(-errno.EPERM)[4:20], errno.EPROTO),
    "secret too long": (secret(value=bytes(49)), errno.EPROTO),
    "secret too long for its suite": (secret(value=bytes(48)), errno.EPROTO),
    "secret too short for its suite": (secret(suite=0x1302), errno.EPROTO),
    "empty secret": (secret(value=b""), errno.EPROTO),
    "no secret": (secret(omitted=4), errno.EPROTO),
    "secret without level": (secret(omitted=1), errno.EPROTO),
    "secret without direction": (secret(omitted=2), errno.EPROTO),
    "secret without cipher suite": (secret(omitted=3), errno.EPROTO),
    "secret of level 4": (secret(level=4), errno.EPROTO),
    "secret of level initial": (secret(level=1), errno.EPROTO),
    "secret of direction 2": (secret(direction=2), errno.EPROTO),
    "secret of unknown suite": (secret(suite=0x1305), errno.EPROTO),
    "early secret for a server to send": (secret(level=3, direction=1), errno.EPROTO),
    "secret twice": (secret() + secret(), errno.EPROTO),
    "CRYPTO without level": (frame(CRYPTO, attribute(2, b"data")), errno.EPROTO),
    "CRYPTO without data": (frame(CRYPTO, number(1, 1)), errno.EPROTO),
    "CRYPTO of level early": (crypto(level=3), errno.EPROTO),
    "CRYPTO of level 4": (crypto(level=4), errno.EPROTO),
    "parameters without ALPN": (frame(TRANSPORT_PARAMETERS, attribute(1, b"x")), errno.EPROTO),
    "ALPN without parameters": (frame(TRANSPORT_PARAMETERS, attribute(2, b"h3")), errno.EPROTO),
    "ticket without expiry": (frame(SESSION_TICKET, attribute(1, b"x")), errno.EPROTO),
    "ticket without state": (frame(SESSION_TICKET, number(2, 1)), errno.EPROTO),
}


@pytest.mark.parametrize(("packet", "status"), ANSWERS.values(), ids=ANSWERS.keys())
def test_malformed_answer_ends_handshake_with_errno(run_with_answers: Run, packet: bytes, status: int) -> None:
    assert run_with_answers(packet + ended_with(0)).startswith(f"{-status} ")


def test_valid_messages_are_accepted(run_with_answers: Run) -> None:
    """Otherwise the test above could pass for the wrong reason."""
    valid = secret() + secret(direction=1, suite=0x1302, value=bytes(48)) + secret(level=3) + secret(level=0)
    valid += crypto() + frame(TRANSPORT_PARAMETERS, attribute(1, b"") + attribute(2, b""))
    assert run_with_answers(valid + ended_with(0)).startswith("0 ")


def test_closed_connection_is_econnreset(run_with_answers: Run) -> None:
    assert run_with_answers().startswith(f"{-errno.ECONNRESET} ")


def test_error_text_becomes_reason(run_with_answers: Run) -> None:
    packet = push_error(1, WireError("is not a socket", attribute="socket"))
    assert run_with_answers(packet).endswith("reason=socket: is not a socket")


def test_messages_after_the_end_are_ignored(run_with_answers: Run) -> None:
    """A late message of another family was handled as an error and written to a result that no longer existed."""
    late = [frame(SESSION_TICKET, b"", family=999), ended_with(0), frame(SESSION_TICKET, b""), b"?"]
    for status in (errno.EACCES, 0):
        printed = run_with_answers(ended_with(status), *late, options=["late=1"])
        assert printed.startswith(f"{-status} ")


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
