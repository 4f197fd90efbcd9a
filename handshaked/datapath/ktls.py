"""Offload of a TCP connection to the kernel's TLS (kTLS), with its constants (include/uapi/linux/tls.h)."""

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
    Status.NOT_FOUND: Status.UNSUPPORTED,  # the kernel module tls, or the cipher's, is missing
    Status.NO_OPTION: Status.UNSUPPORTED,
    Status.NOT_CONNECTED: Status.PEER_GONE,
}
_OPTIONS = {Direction.SEND: _TLS_TX, Direction.RECEIVE: _TLS_RX}


@dataclass(slots=True)
class Capabilities:
    """The kernel's cipher suites, and whether it can limit the size of records (None: not known yet)."""

    suites: tuple[CipherSuite, ...]
    limits: bool | None


def push_crypto_info(state: RecordState) -> bytes:
    """Encode one direction's ``tls12_crypto_info_*``: version, cipher, iv, key, salt, number of the next record."""
    suite = state.cipher_suite
    salt, iv = state.iv[: suite.salt_length], state.iv[suite.salt_length :]
    header = struct.pack("=HH", _TLS_1_3, suite.linux_cipher)
    return header + iv + state.key + salt + state.sequence.to_bytes(8)


def offload(sock: socket.socket, records: RecordLayer) -> None:
    """Let the kernel protect the records on `sock` from now on; LocalError if it refuses."""
    if records.buffered:
        raise LocalError(f"{records.buffered} bytes were read after the end of the handshake")
    try:
        sock.setsockopt(socket.SOL_TCP, _TCP_ULP, b"tls")
        for direction, option in _OPTIONS.items():
            sock.setsockopt(_SOL_TLS, option, push_crypto_info(records.state(direction)))
        found = capabilities()
        # If the kernel cannot limit records, no limit was negotiated: the peer's alone is not binding (RFC 8449).
        if found.limits and records.max_payload < MAX_PLAINTEXT:
            sock.setsockopt(_SOL_TLS, _TLS_TX_MAX_PAYLOAD_LEN, struct.pack("=H", records.max_payload))
        elif found.limits is None:
            found.limits = _can_limit(sock)
    except OSError as error:
        status = _STATUSES.get(error.errno or 0, Status.FAILED)
        raise LocalError(f"the kernel refused the connection (kTLS): {error.strerror}", status) from None


@lru_cache(maxsize=1)
def capabilities() -> Capabilities:
    """Return what this kernel's TLS supports, probed once, on a connection with ourselves.

    Where such a connection is not allowed, as in handshaked.service, all cipher suites are assumed to work, and the
    first offloaded connection shows whether records can be limited.
    """
    found = Capabilities((), limits=False)
    try:
        for suite in CipherSuite:
            ours, theirs = _established()
            with ours as sock, theirs:
                sock.setsockopt(socket.SOL_TCP, _TCP_ULP, b"tls")
                if _accepts(sock, _TLS_TX, push_crypto_info(_example(suite))):
                    found.suites += (suite,)
                    found.limits = _can_limit(sock)
    except OSError as error:
        if error.errno == Status.NOT_FOUND:
            log.warning(
                "kTLS is not available: TCP handshakes will fail until the kernel module 'tls' is loaded (modprobe tls)"
            )
        else:
            log.info("kTLS: not probed (%s); all cipher suites are offered", error.strerror)
        return Capabilities(tuple(CipherSuite), limits=None)
    suites = ", ".join(suite.name for suite in found.suites)
    log.info("kTLS: %s%s", suites, ", record size limit" if found.limits else "")
    return found


def _can_limit(sock: socket.socket) -> bool:
    """Return whether the kernel can limit the records that it sends on `sock`, without changing their size."""
    return _accepts(sock, _TLS_TX_MAX_PAYLOAD_LEN, struct.pack("=H", MAX_PLAINTEXT))


def _established() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=1)
        return ours, listener.accept()[0]


def _accepts(sock: socket.socket, option: int, value: bytes) -> bool:
    try:
        sock.setsockopt(_SOL_TLS, option, value)
    except OSError:
        return False
    return True


def _example(suite: CipherSuite) -> RecordState:
    return RecordState(suite, bytes(suite.key_length), bytes(12), 0)
