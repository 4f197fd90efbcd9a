"""Initial protection and the Retry tag: examples of RFC 9001 and RFC 9369 (appendix A), and aioquic's packets."""

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from handshaked.quic.initial import ClientHelloAssembler
from handshaked.quic.packets import VERSION_1, VERSION_2, pull_initials
from handshaked.quic.protection import InitialKeys, retry_tag

DCID = bytes.fromhex("8394c8f03e515708")
# RFC 9001 A.3: the server's Initial and its frames.
SERVER_FRAMES = bytes.fromhex(
    "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf73988cfc79825df566dc5430b9a045a1200130100002e0033"
    "0024001d00209d3c940d89690b84d08a60993c144eca684d1081287c834d5311bcf32bb9da1a002b00020304"
)
SERVER_INITIAL = bytes.fromhex(
    "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb38cc5a99f5ede4c"
    "f73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7a"
    "af2f58891850abbdca3d20398c276456cbc42158407dd074ee"
)
# Section A.4 of both RFCs.
RETRIES = {
    VERSION_1: "ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba",
    VERSION_2: "cf6b3343cf0008f067a5502a4262b5746f6b656ec8646ce8bfe33952d955543665dcc7b6",
}


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_retry_tag_of_the_rfc(version: int) -> None:
    packet = bytes.fromhex(RETRIES[version])
    assert retry_tag(version, DCID, packet[:-16]) == packet[-16:]


def test_server_initial_of_the_rfc_opens() -> None:
    (packet,) = pull_initials(SERVER_INITIAL)
    assert InitialKeys(VERSION_1, DCID, server=True).open(packet) == SERVER_FRAMES
    assert InitialKeys(VERSION_1, DCID).open(packet) is None


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_sealed_packet_opens_unless_it_is_altered(version: int) -> None:
    keys = InitialKeys(version, DCID, server=True)
    header = bytes([0xD3 if version == VERSION_2 else 0xC3]) + version.to_bytes(4) + b"\x02to\x04from\x00"
    sealed = keys.seal(header, 7, SERVER_FRAMES)
    (packet,) = pull_initials(sealed)
    assert keys.open(packet) == SERVER_FRAMES
    for position in (0, 2, 6, 15, len(sealed) - 1):
        spoiled = bytearray(sealed)
        spoiled[position] ^= 1
        assert [keys.open(one) for one in pull_initials(bytes(spoiled))] in ([], [None])


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_initials_of_aioquic_open(version: int) -> None:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], original_version=version)
    connection = QuicConnection(configuration=configuration)
    connection.connect(("127.0.0.1", 443), now=0.0)
    assembler = ClientHelloAssembler()
    assert any(assembler.receive(datagram) for datagram, _ in connection.datagrams_to_send(now=0.0))
    assert assembler.connection is not None
    assert assembler.connection[0] == version
