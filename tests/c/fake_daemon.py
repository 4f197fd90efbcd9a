"""Messages of a daemon that may be malformed, and a socket that answers with them."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.patience import PATIENCE
from tests.quic_socket_peers import in_thread

CRYPTO, SECRET, TRANSPORT_PARAMETERS, DONE, LOOKUP, SESSION_TICKET, CLOSE = 2, 3, 4, 5, 7, 8, 9
HANDSHAKE = 2


def frame(command: int, attributes: bytes, family: int = 32, version: int = 1) -> bytes:
    """Return a message of the family, or of another one."""
    return struct.pack("=IHHIIBBxx", 20 + len(attributes), family, 0, 1, 0, command, version) + attributes


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    """Return an attribute with a u32."""
    return attribute(kind, struct.pack("=I", value))


def secret(
    level: int = HANDSHAKE, direction: int = 0, suite: int = 0x1301, value: bytes = bytes(32), omitted: int = 0
) -> bytes:
    """Return SECRET, without the attribute `omitted`."""
    attributes = {1: number(1, level), 2: number(2, direction), 3: number(3, suite), 4: attribute(4, value)}
    return frame(SECRET, b"".join(part for kind, part in attributes.items() if kind != omitted))


def crypto(level: int = 1, data: bytes = b"data") -> bytes:
    """Return CRYPTO."""
    return frame(CRYPTO, number(1, level) + attribute(2, data))


def ticket() -> bytes:
    """Return SESSION_TICKET."""
    return frame(SESSION_TICKET, attribute(1, b"state") + number(2, 1))


def ended_with(status: int, quic_error: int | None = None) -> bytes:
    """Return DONE."""
    return frame(DONE, number(1, status) + (b"" if quic_error is None else number(41, quic_error)))


def close(quic_error: int = 10, reason: bytes = b"why") -> bytes:
    """Return CLOSE."""
    return frame(CLOSE, number(1, quic_error) + attribute(2, reason + b"\0"))


def error_with(error: int) -> bytes:
    """Return NLMSG_ERROR with `error`, which is negative in a valid one, 0 in an acknowledgement."""
    return struct.pack("=IHHIIiIHHII", 36, 2, 0, 1, 0, error, 16, 0, 0, 1, 0)


@contextmanager
def answering(path: Path | bytes, *packets: bytes, hangs: bool = False) -> Iterator[socket.socket]:
    """Listen at `path`; answer the first packet of a connection with `packets`, then close or hang."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path if isinstance(path, bytes) else str(path))
        listener.listen()
        listener.settimeout(PATIENCE)

        def answer() -> None:
            sock, _ = listener.accept()
            with sock, suppress(ConnectionError):  # the program may close before it has read everything
                sock.settimeout(PATIENCE)
                sock.recv(65536)
                for packet in packets:
                    sock.send(packet)
                if not hangs:
                    sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):  # until the program closes
                    pass

        answered = in_thread(answer)
        yield listener
        answered.result(PATIENCE)
