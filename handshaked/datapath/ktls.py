"""Handing a TCP connection over to the kernel's TLS (include/uapi/linux/tls.h), whose numbers are kept here."""

import logging
import socket
import struct
from dataclasses import dataclass
from functools import lru_cache

from handshaked.errors import LocalError, Status
from handshaked.model import CipherSuite, Direction
from handshaked.tls.protection import RecordState
from handshaked.tls.record import MAX_PLAINTEXT, RecordLayer

log = logging.getLogger(__name__)

_TCP_ULP = 31
_SOL_TLS = 282
_TLS_TX = 1
_TLS_RX = 2
_TLS_TX_MAX_PAYLOAD_LEN = 5
_TLS_1_3 = 0x0304
_STATUSES = {
    Status.NO_SUCH: Status.UNSUPPORTED,  # no module tls, or none for the cipher
    Status.NO_OPTION: Status.UNSUPPORTED,
    Status.NOT_CONNECTED: Status.PEER_GONE,
}
_OPTIONS = {Direction.SEND: _TLS_TX, Direction.RECEIVE: _TLS_RX}


@dataclass(slots=True)
class Capabilities:
    """What the kernel's TLS has: cipher suites, and whether it can limit the size of records (None: not known yet)."""

    suites: tuple[CipherSuite, ...]
    limits: bool | None


def push_crypto_info(state: RecordState) -> bytes:
    """The ``tls12_crypto_info_*`` of one direction: version, cipher, iv, key, salt, number of the next record."""
    suite = state.cipher_suite
    salt, iv = state.iv[: suite.salt_length], state.iv[suite.salt_length :]
    header = struct.pack("=HH", _TLS_1_3, suite.linux_cipher)
    return header + iv + state.key + salt + state.sequence.to_bytes(8)


def hand_over(sock: socket.socket, records: RecordLayer) -> None:
    """Let the kernel protect what is sent and received on `sock` from here on; LocalError if it does not."""
    if records.buffered:
        raise LocalError(f"{records.buffered} bytes were read beyond the end of the handshake")
    try:
        sock.setsockopt(socket.SOL_TCP, _TCP_ULP, b"tls")
        for direction, option in _OPTIONS.items():
            sock.setsockopt(_SOL_TLS, option, push_crypto_info(records.state(direction)))
        found = capabilities()
        # Where the kernel cannot limit records no limit was agreed on, and what a peer asks for alone does not bind.
        if found.limits and records.max_payload < MAX_PLAINTEXT:
            sock.setsockopt(_SOL_TLS, _TLS_TX_MAX_PAYLOAD_LEN, struct.pack("=H", records.max_payload))
        elif found.limits is None:
            found.limits = _limits(sock)
    except OSError as error:
        status = _STATUSES.get(error.errno or 0, Status.FAILED)
        raise LocalError(f"the kernel does not take the connection over (kTLS): {error.strerror}", status) from None


@lru_cache(maxsize=1)
def capabilities() -> Capabilities:
    """What this kernel's TLS has, found out once, on a connection with ourselves.

    Where none may be opened, as by handshaked.service, all cipher suites are taken for granted, and the first
    connection that is handed over tells whether records can be limited.
    """
    found = Capabilities((), limits=False)
    try:
        for suite in CipherSuite:
            ours, theirs = _established()
            with ours as sock, theirs:
                sock.setsockopt(socket.SOL_TCP, _TCP_ULP, b"tls")
                if _takes(sock, _TLS_TX, push_crypto_info(_example(suite))):
                    found.suites += (suite,)
                    found.limits = _limits(sock)
    except OSError as error:
        if error.errno == Status.NO_SUCH:
            log.warning("kTLS: the kernel has none; without its module tls all handshakes over TCP fail")
        else:
            log.info("kTLS: not examined (%s); all cipher suites are offered", error.strerror)
        return Capabilities(tuple(CipherSuite), limits=None)
    suites = ", ".join(suite.name for suite in found.suites)
    log.info("kTLS: %s%s", suites, ", record size limit" if found.limits else "")
    return found


def _limits(sock: socket.socket) -> bool:
    """Whether the kernel can limit the records that it sends on `sock`; they are as large as ever."""
    return _takes(sock, _TLS_TX_MAX_PAYLOAD_LEN, struct.pack("=H", MAX_PLAINTEXT))


def _established() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=1)
        return ours, listener.accept()[0]


def _takes(sock: socket.socket, option: int, value: bytes) -> bool:
    try:
        sock.setsockopt(_SOL_TLS, option, value)
    except OSError:
        return False
    return True


def _example(suite: CipherSuite) -> RecordState:
    return RecordState(suite, bytes(suite.key_length), bytes(12), 0)
