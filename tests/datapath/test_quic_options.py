"""The constants and layouts of QUIC socket options, and a fake socket that checks their use."""

import errno
import struct
from collections.abc import Callable

import pytest

from handshaked.datapath import quic_options
from handshaked.datapath.quic_options import Config, Option
from handshaked.errors import Alert, LocalError, QuicError
from handshaked.events import TrafficSecret
from handshaked.model import CipherSuite, Direction, Level, Role
from handshaked.testing.fake_quic_socket import FakeQuicSocket, SocketError

SECRET = bytes(range(32))


def secret(level: Level, direction: Direction) -> bytes:
    return quic_options.push_crypto_secret(TrafficSecret(level, direction, CipherSuite.AES_128_GCM_SHA256, SECRET))


def test_constants_match_the_kernel() -> None:
    assert (quic_options.IPPROTO_QUIC, quic_options.SOL_QUIC, quic_options.HANDSHAKE_INFO) == (261, 288, 1)
    assert {option.name: option.value for option in Option} == {
        "CONNECTION_CLOSE": 5,
        "CONFIG": 9,
        "TOKEN": 10,
        "ALPN": 11,
        "SESSION_TICKET": 12,
        "CRYPTO_SECRET": 13,
        "TRANSPORT_PARAM_EXT": 14,
    }


def test_a_secret_is_56_bytes() -> None:
    pushed = secret(Level.HANDSHAKE, Direction.SEND)
    assert pushed == b"\x01\x02\0\0" + struct.pack("=I", 51) + SECRET + bytes(16)
    assert quic_options.pull_crypto_secret(pushed) == TrafficSecret(
        Level.HANDSHAKE, Direction.SEND, CipherSuite.AES_128_GCM_SHA256, SECRET
    )


@pytest.mark.parametrize(
    ("suite", "number"),
    [
        (CipherSuite.AES_128_GCM_SHA256, 51),
        (CipherSuite.AES_256_GCM_SHA384, 52),
        (CipherSuite.AES_128_CCM_SHA256, 53),
        (CipherSuite.CHACHA20_POLY1305_SHA256, 54),
    ],
)
def test_payload_cipher_maps_to_a_cipher_suite(suite: CipherSuite, number: int) -> None:
    pushed = quic_options.push_config(Config(payload_cipher_type=number))
    assert quic_options.read_config(lambda option, size: pushed[:size]).cipher_suites == (suite,)


def test_an_unknown_cipher_is_refused() -> None:
    with pytest.raises(LocalError):
        _ = Config(payload_cipher_type=99).cipher_suites


def test_both_layouts_of_config_are_decoded() -> None:
    present = struct.pack("=IIIIBBBBB3x", 1, 0, 333_000, 52, 0, 0, 0, 7, 2)
    older = struct.pack("=IIQBBxxIBBB5x", 1, 0, 333_000, 0, 0, 52, 7, 2, 0)
    assert [len(present), len(older)] == [24, 32]
    expected = Config(version=1, payload_cipher_type=52, ticket_seconds=7, certificate_request=2)
    for more in (0, 4, 8, 40):  # with 8 it is as long as the older one
        known = present + bytes(more)
        assert quic_options.read_config(lambda option, size, known=known: known[:size]) == expected

    def older_kernel(option: Option, size: int) -> bytes:
        if size < len(older):
            raise OSError(errno.EINVAL, "too little room")
        return older

    assert quic_options.read_config(older_kernel) == expected
    with pytest.raises(LocalError):
        quic_options.read_config(lambda option, size: present[:-1])


def test_error_in_reading_config_is_not_retried() -> None:
    def gone(option: Option, size: int) -> bytes:
        asked.append(size)
        raise OSError(errno.ENOTCONN, "gone")

    asked: list[int] = []
    with pytest.raises(OSError, match="gone"):
        quic_options.read_config(gone)
    assert len(asked) == 1


@pytest.mark.parametrize("alert", list(Alert))
def test_close_carries_the_alert_in_error_code_and_phrase(alert: Alert) -> None:
    close = quic_options.ConnectionClose.of(alert)
    sent = quic_options.push_connection_close(close)
    assert sent == struct.pack("=II64s", 0x100 + alert, 0, f"TLS alert {alert.label}".encode())
    assert sent[-1] == 0
    assert quic_options.pull_connection_close(sent) == close
    # The kernel replaces the error code while the connection is being established.
    overwritten = quic_options.pull_connection_close(struct.pack("=I", QuicError.APPLICATION_ERROR) + sent[4:])
    assert (close.alert, overwritten and overwritten.alert) == (alert, alert)


def test_close_carries_a_violation_in_error_code_and_phrase() -> None:
    close = quic_options.ConnectionClose.of_error(QuicError.PROTOCOL_VIOLATION)
    assert (close.error_code, close.alert, close.is_violation) == (0x0A, None, True)
    overwritten = quic_options.ConnectionClose(QuicError.APPLICATION_ERROR, close.phrase)
    assert (overwritten.alert, overwritten.is_violation) == (None, True)
    for other in (quic_options.ConnectionClose(0x0B, close.phrase), quic_options.ConnectionClose(0x0C, "")):
        assert not other.is_violation


@pytest.mark.parametrize("alert", list(Alert))
def test_close_of_an_error_with_an_alert_is_that_of_the_alert(alert: Alert) -> None:
    close = quic_options.ConnectionClose.of_error(alert.quic_error)
    assert close == quic_options.ConnectionClose.of(alert)
    assert not close.is_violation


def test_close_without_alert_has_none() -> None:
    for code, phrase in ((0, ""), (0x0C, ""), (0x0C, "TLS alert nonsense"), (0x0B, "TLS alert access_denied")):
        assert quic_options.ConnectionClose(code, phrase).alert is None
    long = quic_options.push_connection_close(quic_options.ConnectionClose(1, 100 * "x"))
    assert (len(long), long[-1]) == (quic_options.CONNECTION_CLOSE_SIZE, 0)
    assert quic_options.pull_connection_close(long) == quic_options.ConnectionClose(1, 63 * "x")
    assert quic_options.pull_connection_close(struct.pack("=II", 0x128, 0)) == quic_options.ConnectionClose(0x128)
    assert quic_options.pull_connection_close(b"\0" * 7) is None


def test_alpns_are_separated_by_commas() -> None:
    assert quic_options.push_alpns((b"h3", b"smb")) == b"h3,smb"
    assert quic_options.pull_alpns(b"h3, smb\0") == (b"h3", b"smb")
    assert quic_options.pull_alpns(b"") == ()


class Packets:
    """Records the calls of a socket on its connection."""

    def __init__(self) -> None:
        self.sent: list[tuple[Level, bytes]] = []
        self.established = False

    def agree(self, peer_parameters: bytes, alpn: bytes) -> bytes:
        return b"own"

    def install(self, secret: TrafficSecret) -> None:
        pass

    def transmit(self, level: Level, data: bytes) -> None:
        self.sent.append((level, data))

    def go_on(self, *, established: bool) -> None:
        self.established = self.established or established


HELLO = b"\x02\0\0\x01x"


@pytest.fixture
def packets() -> Packets:
    return Packets()


@pytest.fixture
def server(packets: Packets) -> FakeQuicSocket:
    return FakeQuicSocket(Role.SERVER, packets)


def refused(call: Callable[..., object], *arguments: object, **options: object) -> int:
    with pytest.raises(SocketError) as raised:
        call(*arguments, **options)
    return raised.value.status


def test_initial_secrets_are_refused(server: FakeQuicSocket) -> None:
    assert refused(server.set, Option.CRYPTO_SECRET, secret(Level.INITIAL, Direction.SEND)) == errno.EINVAL


def test_secrets_in_wrong_order_are_refused(server: FakeQuicSocket) -> None:
    assert refused(server.get, Option.TRANSPORT_PARAM_EXT) == errno.EINVAL  # the peer's are not known
    assert refused(server.set, Option.CRYPTO_SECRET, secret(Level.APPLICATION, Direction.SEND)) == errno.EINVAL
    assert refused(server.send, Level.HANDSHAKE, HELLO, more=False) == errno.EINVAL
    server.set(Option.CRYPTO_SECRET, secret(Level.HANDSHAKE, Direction.SEND))
    assert refused(server.set, Option.CRYPTO_SECRET, secret(Level.HANDSHAKE, Direction.SEND)) == errno.EINVAL
    assert refused(server.set, Option.CRYPTO_SECRET, secret(Level.APPLICATION, Direction.SEND)) == errno.EINVAL


def test_wrong_levels_and_messages_are_refused(server: FakeQuicSocket) -> None:
    assert refused(server.send, Level.EARLY, HELLO, more=False) == errno.EINVAL
    assert refused(server.send, None, HELLO, more=False) == errno.EINVAL
    assert refused(server.send, Level.INITIAL, HELLO + HELLO, more=False) == errno.EINVAL
    assert refused(server.send, Level.INITIAL, HELLO[:-1], more=False) == errno.EINVAL
    assert refused(server.get, Option.TOKEN) == errno.EINVAL  # this error tells the role


def test_connection_is_established_with_both_application_secrets(server: FakeQuicSocket, packets: Packets) -> None:
    server.set(Option.TRANSPORT_PARAM_EXT, b"peer's")
    assert refused(server.set, Option.TRANSPORT_PARAM_EXT, b"peer's") == errno.EINVAL
    assert server.get(Option.TRANSPORT_PARAM_EXT) == b"own"
    for level in (Level.HANDSHAKE, Level.APPLICATION):
        for direction in Direction:
            assert not server.established
            assert refused(server.send, Level.APPLICATION, HELLO, more=False) == errno.EINVAL
            server.set(Option.CRYPTO_SECRET, secret(level, direction))
    assert server.established
    assert packets.established
    server.send(Level.APPLICATION, HELLO, more=False)
    assert refused(server.get, Option.TRANSPORT_PARAM_EXT) == errno.EINVAL


def test_flight_is_sent_with_its_last_message(server: FakeQuicSocket, packets: Packets) -> None:
    server.send(Level.INITIAL, HELLO, more=True)
    assert packets.sent == []
    server.send(Level.INITIAL, HELLO, more=False)
    assert packets.sent == [(Level.INITIAL, HELLO)] * 2


def test_closed_socket_refuses_calls(server: FakeQuicSocket) -> None:
    assert refused(server.receive) == errno.EAGAIN
    server.queue(Level.INITIAL, b"x")
    server.closed = True
    assert server.receive() == b"\x01x"
    assert refused(server.receive) == errno.ENOTCONN
    assert refused(server.send, Level.INITIAL, HELLO, more=False) == errno.EPIPE


def test_long_message_is_received_in_frames(server: FakeQuicSocket) -> None:
    message = b"\x0b" + (2500).to_bytes(3) + bytes(2500)
    server.queue(Level.HANDSHAKE, message + HELLO)
    assert [len(server.receive()) - 1 for _ in range(4)] == [1200, 1200, 104, 5]


@pytest.mark.parametrize("size", [0, 63, 4097])
def test_a_ticket_of_another_size_is_refused(server: FakeQuicSocket, size: int) -> None:
    assert refused(server.set, Option.SESSION_TICKET, bytes(size)) == errno.EINVAL
