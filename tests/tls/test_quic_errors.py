"""The QUIC error of each violation (RFC 9001), and the extension of QUIC over TCP."""

from collections.abc import Callable

import pytest

from handshaked.errors import Alert, PeerError, QuicError
from handshaked.events import HandshakeFailed
from handshaked.model import ClientAuth, Level
from handshaked.tls import messages
from handshaked.tls.client import ClientHandshake
from handshaked.tls.codec import push_extension
from handshaked.tls.codepoints import ExtensionType as E
from handshaked.tls.codepoints import HandshakeType as M
from handshaked.tls.machine import Machine
from handshaked.tls.server import ServerHandshake
from tests.fuzz.mutate import YES
from tests.tls.pair import NOW, client_parameters, credential, data, pair, server_parameters
from tests.tls.test_client import encrypted_extensions, entry, having, parts, patch, refused, server_hello
from tests.tls.test_client_hello import hello

VIOLATION = int(QuicError.PROTOCOL_VIOLATION)


def failure(machine: Machine, level: Level, data: bytes) -> PeerError:
    with pytest.raises(PeerError) as caught:
        machine.receive(level, data, NOW)
    return caught.value


def connected(role: str, *, quic: bool = True) -> Machine:
    done = pair(quic=quic).run()
    return done.client if role == "client" else done.server


def ticket(early_data: int | None) -> bytes:
    return messages.push_new_session_ticket(messages.NewSessionTicketMessage(3600, 1, b"\0\0", b"ticket", early_data))


def violated(error: PeerError, alert: Alert) -> None:
    assert (error.alert, error.quic_error) == (alert, VIOLATION)
    failed = HandshakeFailed.of(error)
    assert (failed.alert, failed.quic_error) == (alert, VIOLATION)


@pytest.mark.parametrize("size", [0, 1, 16384, 0xFFFFFFFE])
def test_ticket_with_another_early_data_size_is_a_violation(size: int) -> None:
    """Section 4.6.1: "any other value", which includes zero."""
    violated(failure(connected("client"), Level.APPLICATION, ticket(size)), Alert.ILLEGAL_PARAMETER)


@pytest.mark.parametrize("size", [None, 0xFFFFFFFF])
def test_ticket_without_limit_or_without_early_data_is_taken(size: int | None) -> None:
    (event,) = connected("client").receive(Level.APPLICATION, ticket(size), NOW)
    assert getattr(event, "early_data", None) is (size is not None)


@pytest.mark.parametrize("size", [None, 0, 16384, 0xFFFFFFFF])
def test_early_data_size_is_free_over_tcp(size: int | None) -> None:
    (event,) = connected("client", quic=False).receive(Level.APPLICATION, ticket(size), NOW)
    assert getattr(event, "early_data", None) is bool(size)


def test_certificate_request_after_the_handshake_is_a_violation() -> None:
    """Section 4.4."""
    request = messages.push_certificate_request(push_extension(E.SIGNATURE_ALGORITHMS, b"\0\2\4\3"))
    violated(failure(connected("client"), Level.APPLICATION, request), Alert.UNEXPECTED_MESSAGE)
    for other in (connected("server"), ClientHandshake(client_parameters())):
        level = Level.APPLICATION if other.complete else Level.INITIAL
        assert failure(other, level, request).quic_error == Alert.UNEXPECTED_MESSAGE.quic_error


def test_hello_with_session_id_is_a_violation() -> None:
    """Section 8.4."""
    odd = hello()
    odd.session_id = bytes(32)
    violated(failure(ServerHandshake(), Level.INITIAL, odd.encode()), Alert.ILLEGAL_PARAMETER)


@pytest.mark.parametrize("level", [Level.EARLY, Level.HANDSHAKE, Level.APPLICATION])
def test_data_at_another_level_is_a_violation(level: Level) -> None:
    """Sections 4.1.3 and, for 0-RTT, 8.3."""
    violated(failure(ServerHandshake(), level, hello().encode()), Alert.UNEXPECTED_MESSAGE)


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("level", [Level.INITIAL, Level.HANDSHAKE, Level.EARLY])
def test_data_at_an_earlier_level_is_a_violation(role: str, level: Level) -> None:
    """Section 4.1.3: "MUST NOT contain data that extends past the end of previously received data"."""
    violated(failure(connected(role), level, b"\x04"), Alert.UNEXPECTED_MESSAGE)


def test_data_left_when_keys_change_is_a_violation() -> None:
    """Section 4.1.3: "data from a previous encryption level that TLS has not consumed"."""
    violated(failure(ServerHandshake(), Level.INITIAL, hello().encode() + b"\x01"), Alert.UNEXPECTED_MESSAGE)
    client, server = ClientHandshake(client_parameters()), ServerHandshake()
    server.receive(Level.INITIAL, data(client.start(NOW)), NOW)
    events = server.proceed(server_parameters(), NOW)
    violated(failure(client, Level.INITIAL, data(events, Level.INITIAL) + b"\x08"), Alert.UNEXPECTED_MESSAGE)


def test_data_after_finished_is_a_violation() -> None:
    client, server = ClientHandshake(client_parameters()), ServerHandshake()
    server.receive(Level.INITIAL, data(client.start(NOW)), NOW)
    events = server.proceed(server_parameters(), NOW)
    client.receive(Level.INITIAL, data(events, Level.INITIAL), NOW)
    flight = data(client.receive(Level.HANDSHAKE, data(events, Level.HANDSHAKE), NOW), Level.HANDSHAKE)
    violated(failure(server, Level.HANDSHAKE, flight + b"\x14"), Alert.UNEXPECTED_MESSAGE)


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("message", [b"\x18\0\0\x01\0", b"\x05\0\0\0", b"\x01\0\0\0"])
def test_other_messages_out_of_order_are_alerts(role: str, message: bytes) -> None:
    """Section 6: KeyUpdate is "of type 0x010a"."""
    assert failure(connected(role), Level.APPLICATION, message).quic_error == 0x10A


# quic_transport_parameters over TCP (section 8.2)


def certificate_with(kind: int) -> Callable[[dict[int, bytes]], None]:
    chain = entry(credential().chain[0], push_extension(kind, b"tp"))
    return patch(M.CERTIFICATE, lambda _: b"\0" + len(chain).to_bytes(3) + chain)


def certificate_request_with(kind: int) -> Callable[[dict[int, bytes]], None]:
    def change(body: bytes) -> bytes:
        extensions = body[3:] + push_extension(kind, b"tp")
        return body[:1] + len(extensions).to_bytes(2) + extensions

    return patch(M.CERTIFICATE_REQUEST, change)


WITH_PARAMETERS = having(E.QUIC_TRANSPORT_PARAMETERS, b"tp")
FLIGHTS = {
    "ServerHello": lambda kind: server_hello(session_id=kind, extensions=WITH_PARAMETERS),
    "EncryptedExtensions": lambda _: encrypted_extensions(WITH_PARAMETERS),
    "Certificate": lambda _: certificate_with(E.QUIC_TRANSPORT_PARAMETERS),
    "CertificateRequest": lambda _: certificate_request_with(E.QUIC_TRANSPORT_PARAMETERS),
}
ASKING = server_parameters(client_auth=ClientAuth.REQUEST, client_verifier=YES)


def echoing(change: Callable[[bytes], Callable[[dict[int, bytes]], None]]) -> Callable[[dict[int, bytes]], None]:
    """Return a change of a flight that keeps the session ID of its ServerHello."""

    def apply(found: dict[int, bytes]) -> None:
        change(messages.pull_server_hello(found[M.SERVER_HELLO]).legacy_session_id)(found)

    return apply


@pytest.mark.parametrize("message", FLIGHTS)
def test_server_messages_with_transport_parameters_are_refused_over_tcp(message: str) -> None:
    change = echoing(FLIGHTS[message])
    assert refused(change, quic=False, server=ASKING, compressions=()) is Alert.UNSUPPORTED_EXTENSION


@pytest.mark.parametrize("message", ["ServerHello", "Certificate", "CertificateRequest"])
def test_transport_parameters_are_misplaced_elsewhere_over_quic(message: str) -> None:
    """RFC 8446 section 4.2."""
    change = echoing(FLIGHTS[message])
    assert refused(change, server=ASKING, compressions=()) is Alert.ILLEGAL_PARAMETER


def misplaced(kind: int) -> bytes:
    extensions = push_extension(kind, b"tp")
    body = bytes(8) + b"\2\0\0" + b"\0\6ticket" + len(extensions).to_bytes(2) + extensions
    return b"\x04" + len(body).to_bytes(3) + body


@pytest.mark.parametrize(
    ("quic", "kind", "alert"),
    [
        (False, E.QUIC_TRANSPORT_PARAMETERS, Alert.UNSUPPORTED_EXTENSION),
        (True, E.QUIC_TRANSPORT_PARAMETERS, Alert.ILLEGAL_PARAMETER),
        (False, E.ALPN, Alert.ILLEGAL_PARAMETER),
    ],
)
def test_ticket_with_transport_parameters_is_refused(quic: bool, kind: int, alert: Alert) -> None:
    assert failure(connected("client", quic=quic), Level.APPLICATION, misplaced(kind)).alert is alert


def test_client_certificate_with_transport_parameters_is_refused_over_tcp() -> None:
    client = ClientHandshake(client_parameters(credential=credential(), compressions=()), quic=False)
    server = ServerHandshake(quic=False)
    server.receive(Level.INITIAL, data(client.start(NOW)), NOW)
    events = server.proceed(ASKING, NOW)
    client.receive(Level.INITIAL, data(events, Level.INITIAL), NOW)
    found = parts(data(client.receive(Level.HANDSHAKE, data(events, Level.HANDSHAKE), NOW), Level.HANDSHAKE))
    certificate_with(E.QUIC_TRANSPORT_PARAMETERS)(found)
    error = failure(server, Level.HANDSHAKE, found[M.CERTIFICATE])
    assert error.alert is Alert.UNSUPPORTED_EXTENSION


@pytest.mark.parametrize("body", [b"", b"tp"])
def test_hello_with_transport_parameters_is_refused_over_tcp(body: bytes) -> None:
    odd = hello(quic=False).put(E.QUIC_TRANSPORT_PARAMETERS, body)
    assert failure(ServerHandshake(quic=False), Level.INITIAL, odd.encode()).alert is Alert.UNSUPPORTED_EXTENSION


def test_hello_without_transport_parameters_is_refused_over_quic() -> None:
    odd = hello().without(E.QUIC_TRANSPORT_PARAMETERS)
    error = failure(ServerHandshake(), Level.INITIAL, odd.encode())
    assert (error.alert, error.quic_error) == (Alert.MISSING_EXTENSION, Alert.MISSING_EXTENSION.quic_error)
