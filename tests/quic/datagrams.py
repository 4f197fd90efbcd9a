"""Client Initials built by aioquic, with chosen frames."""

from collections.abc import Sequence

from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder

V1, V2 = 0x00000001, 0x6B3343CF
CID = bytes.fromhex("8394c8f03e515708")

Frame = tuple[int, bytes] | str
"""CRYPTO data at an offset; or ``ping``, ``padding``, ``ack``."""


def datagram(
    frames: Sequence[Frame],
    *,
    version: int = V1,
    cid: bytes = CID,
    packet_number: int = 0,
    token: bytes = b"",
    size: int = 1200,
    peer_cid: bytes | None = None,
) -> bytes:
    """Return a datagram with one Initial, protected by the keys of `cid`."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=cid, is_client=True, version=version)
    builder = QuicPacketBuilder(
        host_cid=b"client",
        peer_cid=cid if peer_cid is None else peer_cid,
        version=version,
        is_client=True,
        max_datagram_size=size,
        packet_number=packet_number,
        peer_token=token,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    for frame in frames:
        if frame == "ping":
            builder.start_frame(QuicFrameType.PING)
        elif frame == "padding":
            builder.start_frame(QuicFrameType.PADDING)
        elif frame == "ack":
            buf = builder.start_frame(QuicFrameType.ACK, capacity=8)
            for number in (3, 0, 1, 0, 0, 0):  # largest, delay, range count, first range, gap, range
                buf.push_uint_var(number)
        elif isinstance(frame, tuple):
            offset, data = frame
            buf = builder.start_frame(QuicFrameType.CRYPTO, capacity=len(data) + 16)
            buf.push_uint_var(offset)
            buf.push_uint_var(len(data))
            buf.push_bytes(data)
    (made,), _ = builder.flush()
    return made


def sealed(payload: bytes) -> bytes:
    """Return an Initial with any `payload` as frames, long enough to be opened."""
    payload = payload.ljust(4, b"\0")
    crypto = CryptoPair()
    crypto.setup_initial(cid=CID, is_client=True, version=V1)
    length = (2 + len(payload) + 16) | 0x4000
    header = b"\xc1" + V1.to_bytes(4) + bytes([len(CID)]) + CID + b"\0\0" + length.to_bytes(2) + bytes(2)
    packet: bytes = crypto.encrypt_packet(header, payload, 0)
    return packet


def datagrams(message: bytes, piece: int = 900, **options: object) -> list[bytes]:
    """Return `message` in order, in as many datagrams as needed."""
    starts = range(0, len(message), piece)
    return [
        datagram([(start, message[start : start + piece])], packet_number=number, **options)  # type: ignore[arg-type] # named options
        for number, start in enumerate(starts)
    ]
