"""Client Initials with chosen fields, and aioquic's ClientHello."""

from collections.abc import Iterable, Sequence

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from handshaked.quic.initial import ClientHelloAssembler
from handshaked.quic.packets import SMALLEST_INITIAL, VERSION_1, VERSION_2, push_varint
from handshaked.quic.protection import InitialKeys

DCID, SCID = b"to server", b"of client"
PING = b"\x01"


def client_hello(server_name: str | None = "one.example.com", alpns: Sequence[str] = ("h3",)) -> bytes:
    """Return a ClientHello of aioquic."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=list(alpns), server_name=server_name)
    connection = QuicConnection(configuration=configuration)
    connection.connect(("127.0.0.1", 443), now=0.0)
    assembler = ClientHelloAssembler()
    messages = [assembler.receive(datagram) for datagram, _ in connection.datagrams_to_send(now=0.0)]
    found = messages[-1]
    assert found is not None
    return found


def crypto(offset: int, data: bytes) -> bytes:
    """Return a CRYPTO frame."""
    return b"\x06" + push_varint(offset) + push_varint(len(data)) + data


def initial(
    frames: bytes,
    number: int = 0,
    *,
    version: int = VERSION_1,
    dcid: bytes = DCID,
    scid: bytes = SCID,
    token: bytes = b"",
) -> bytes:
    """Return a datagram with one Initial packet, padded to the required size."""
    first = 0xD3 if version == VERSION_2 else 0xC3
    header = bytes([first]) + version.to_bytes(4) + bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid
    header += push_varint(len(token)) + token
    frames += bytes(max(0, SMALLEST_INITIAL - len(header) - len(frames) - 22))
    return InitialKeys(version, dcid).seal(header, number, frames)


def initials(pieces: Iterable[bytes], **options: object) -> list[bytes]:
    """Return a datagram for each of `pieces`, which are frames."""
    return [initial(frames, number, **options) for number, frames in enumerate(pieces)]  # type: ignore[arg-type] # as they come
