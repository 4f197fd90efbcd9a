"""Server messages that a client refuses, each with its alert."""

import struct
from collections.abc import Callable

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.model import CipherSuite, Level
from handshaked.tls import messages
from handshaked.tls.client import ClientHandshake
from handshaked.tls.codepoints import HELLO_RETRY_RANDOM
from handshaked.tls.codepoints import ExtensionType as E
from handshaked.tls.codepoints import HandshakeType as M
from handshaked.tls.server import ServerHandshake
from tests.tls.pair import NOW, client_parameters, data, kinds, pair, server_parameters

Extensions = list[tuple[int, bytes]]


def block(extensions: Extensions) -> bytes:
    return b"".join(struct.pack(">HH", kind, len(body)) + body for kind, body in extensions)


def parts(flight: bytes) -> dict[int, bytes]:
    """Return the messages of a flight by type, in order."""
    found = {}
    while flight:
        end = 4 + int.from_bytes(flight[1:4])
        found[flight[0]] = flight[:end]
        flight = flight[end:]
    return found


def refused(
    change: Callable[[dict[int, bytes]], None], *, quic: bool = True, server: object = None, **client: object
) -> Alert:
    """Return the alert of a client that receives a server's messages altered by `change`."""
    ours = ClientHandshake(client_parameters(**client), quic=quic)
    theirs = ServerHandshake(quic=quic)
    theirs.receive(Level.INITIAL, data(ours.start(NOW)), NOW)
    events = theirs.proceed(server or server_parameters(), NOW)
    found = parts(data(events))
    change(found)
    with pytest.raises(PeerError) as caught:
        feed(ours, found)
    return caught.value.alert


def feed(client: ClientHandshake, found: dict[int, bytes]) -> None:
    for kind, message in found.items():
        client.receive(Level.INITIAL if kind == M.SERVER_HELLO else Level.HANDSHAKE, message, NOW)


def server_hello(
    *,
    extensions: Callable[[Extensions], Extensions] = lambda each: each,
    suite: int = CipherSuite.AES_128_GCM_SHA256,
    session_id: bytes = b"",
    random: bytes = bytes(32),
    version: bytes = b"\x03\x03",
    compression: int = 0,
) -> Callable[[dict[int, bytes]], None]:
    """Return a change of a ServerHello."""

    def change(found: dict[int, bytes]) -> None:
        parsed = messages.pull_server_hello(found[M.SERVER_HELLO])
        body = block(extensions(list(parsed.extensions.items())))
        content = b"".join(
            (
                version,
                random,
                bytes([len(session_id)]),
                session_id,
                suite.to_bytes(2),
                bytes([compression]),
                len(body).to_bytes(2),
                body,
            )
        )
        found[M.SERVER_HELLO] = b"\x02" + len(content).to_bytes(3) + content

    return change


def without(*dropped: int) -> Callable[[Extensions], Extensions]:
    return lambda each: [(kind, body) for kind, body in each if kind not in dropped]


def having(kind: int, body: bytes) -> Callable[[Extensions], Extensions]:
    return lambda each: [*((old, value) for old, value in each if old != kind), (kind, body)]


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (server_hello(session_id=bytes(32)), Alert.ILLEGAL_PARAMETER),
        (server_hello(suite=0x1304), Alert.ILLEGAL_PARAMETER),
        (server_hello(suite=0x002F), Alert.ILLEGAL_PARAMETER),
        (server_hello(compression=1), Alert.ILLEGAL_PARAMETER),
        (server_hello(version=b"\x03\x04"), Alert.ILLEGAL_PARAMETER),
        (server_hello(version=b"\x03\x00"), Alert.PROTOCOL_VERSION),
        (server_hello(extensions=without(E.SUPPORTED_VERSIONS)), Alert.PROTOCOL_VERSION),
        (server_hello(extensions=having(E.SUPPORTED_VERSIONS, b"\x03\x03")), Alert.ILLEGAL_PARAMETER),
        (server_hello(extensions=having(E.SUPPORTED_VERSIONS, b"\x03")), Alert.DECODE_ERROR),
        (server_hello(extensions=without(E.KEY_SHARE)), Alert.MISSING_EXTENSION),
        (server_hello(extensions=having(E.KEY_SHARE, b"\0\x17\0\x01\x04")), Alert.ILLEGAL_PARAMETER),
        (server_hello(extensions=having(E.KEY_SHARE, b"\0\x1d\0\x01\x04")), Alert.ILLEGAL_PARAMETER),
        (server_hello(extensions=having(E.KEY_SHARE, b"\0\x1d\0\x20" + bytes(32))), Alert.ILLEGAL_PARAMETER),
        (server_hello(extensions=having(E.KEY_SHARE, b"\0\x1d\0\0")), Alert.DECODE_ERROR),
        (server_hello(extensions=having(E.KEY_SHARE, b"\0\x1d\0\x01\x04\0")), Alert.DECODE_ERROR),
        (server_hello(extensions=having(E.PRE_SHARED_KEY, b"\0\0")), Alert.UNSUPPORTED_EXTENSION),
        (server_hello(extensions=having(0x1234, b"")), Alert.UNSUPPORTED_EXTENSION),
        (server_hello(extensions=having(E.COOKIE, b"\0\x01a")), Alert.ILLEGAL_PARAMETER),
        (server_hello(extensions=having(E.ALPN, b"\0\x03\x02h3")), Alert.ILLEGAL_PARAMETER),
        (server_hello(extensions=lambda each: [*each, each[0]]), Alert.ILLEGAL_PARAMETER),
        (server_hello(), Alert.DECRYPT_ERROR),
    ],
)
def test_invalid_server_hello_is_refused(change: Callable[[dict[int, bytes]], None], alert: Alert) -> None:
    assert refused(change) is alert


def retry(extensions: Extensions, suite: int = CipherSuite.AES_128_GCM_SHA256) -> Callable[[dict[int, bytes]], None]:
    everything = [(int(E.SUPPORTED_VERSIONS), b"\x03\x04"), *extensions]
    return server_hello(random=HELLO_RETRY_RANDOM, suite=suite, extensions=lambda _: everything)


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (retry([]), Alert.ILLEGAL_PARAMETER),
        (retry([(E.KEY_SHARE, b"\0\x1d")]), Alert.ILLEGAL_PARAMETER),
        (retry([(E.KEY_SHARE, b"\x12\x34")]), Alert.ILLEGAL_PARAMETER),
        (retry([(E.KEY_SHARE, b"\0\x17\0")]), Alert.DECODE_ERROR),
        (retry([(E.COOKIE, b"\0\0")]), Alert.DECODE_ERROR),
        (retry([(E.PRE_SHARED_KEY, b"\0\0")]), Alert.ILLEGAL_PARAMETER),
        (retry([(E.KEY_SHARE, b"\0\x17"), (0x1234, b"")]), Alert.UNSUPPORTED_EXTENSION),
        (retry([(E.KEY_SHARE, b"\0\x17")], suite=0x1304), Alert.ILLEGAL_PARAMETER),
    ],
)
def test_invalid_hello_retry_request_is_refused(change: Callable[[dict[int, bytes]], None], alert: Alert) -> None:
    assert refused(change) is alert


def retried(extensions: Extensions) -> tuple[ClientHandshake, bytes]:
    """Return a client that has answered a HelloRetryRequest, and its answer."""
    client = ClientHandshake(client_parameters())
    client.start(NOW)
    found = parts(b"")
    body = block([(int(E.SUPPORTED_VERSIONS), b"\x03\x04"), *extensions])
    request = messages.push_server_hello(HELLO_RETRY_RANDOM, b"", CipherSuite.AES_128_GCM_SHA256, body[6:])
    found[M.SERVER_HELLO] = request
    return client, data(client.receive(Level.INITIAL, request, NOW))


def test_cookie_is_echoed() -> None:
    _, again = retried([(int(E.COOKIE), b"\0\x06cookie")])
    assert struct.pack(">HH", E.COOKIE, 8) + b"\0\x06cookie" in again


def test_cookie_too_large_for_a_client_hello_is_refused() -> None:
    with pytest.raises(PeerError) as caught:
        retried([(int(E.COOKIE), (65_400).to_bytes(2) + bytes(65_400))])
    assert caught.value.alert is Alert.ILLEGAL_PARAMETER


def test_second_hello_retry_request_is_refused() -> None:
    client, _ = retried([(int(E.KEY_SHARE), b"\0\x17")])
    request = messages.push_server_hello(
        HELLO_RETRY_RANDOM, b"", CipherSuite.AES_128_GCM_SHA256, block([(int(E.KEY_SHARE), b"\0\x18")])
    )
    with pytest.raises(PeerError) as caught:
        client.receive(Level.INITIAL, request, NOW)
    assert caught.value.alert is Alert.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("field", ["suite", "group"])
def test_server_hello_must_match_hello_retry_request(field: str) -> None:
    client, again = retried([(int(E.KEY_SHARE), b"\0\x17")])
    suites = (CipherSuite.AES_256_GCM_SHA384 if field == "suite" else CipherSuite.AES_128_GCM_SHA256,)
    server = ServerHandshake()
    server.receive(Level.INITIAL, again, NOW)
    flight = data(server.proceed(server_parameters(cipher_suites=suites), NOW), Level.INITIAL)
    if field == "group":
        flight = flight.replace(b"\0\x45\0\x17", b"\0\x45\0\x1d")
    with pytest.raises(PeerError) as caught:
        client.receive(Level.INITIAL, flight, NOW)
    assert caught.value.alert is Alert.ILLEGAL_PARAMETER


def encrypted_extensions(change: Callable[[Extensions], Extensions]) -> Callable[[dict[int, bytes]], None]:
    def apply(found: dict[int, bytes]) -> None:
        old = messages.pull_encrypted_extensions(found[M.ENCRYPTED_EXTENSIONS])
        found[M.ENCRYPTED_EXTENSIONS] = messages.push_encrypted_extensions(block(change(list(old.items()))))

    return apply


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (without(E.ALPN), Alert.NO_APPLICATION_PROTOCOL),
        (without(E.QUIC_TRANSPORT_PARAMETERS), Alert.MISSING_EXTENSION),
        (having(E.ALPN, b"\0\x03\x02h1"), Alert.ILLEGAL_PARAMETER),
        (having(E.ALPN, b"\0\x06\x02h3\x02h2"), Alert.ILLEGAL_PARAMETER),
        (having(E.ALPN, b"\0\0"), Alert.DECODE_ERROR),
        (having(E.SERVER_NAME, b"\0"), Alert.DECODE_ERROR),
        (having(E.SUPPORTED_GROUPS, b"\0"), Alert.DECODE_ERROR),
        (having(E.EARLY_DATA, b""), Alert.UNSUPPORTED_EXTENSION),
        (having(E.RECORD_SIZE_LIMIT, b"\x40\0"), Alert.UNSUPPORTED_EXTENSION),
        (having(0x1234, b""), Alert.UNSUPPORTED_EXTENSION),
        (having(E.KEY_SHARE, b""), Alert.ILLEGAL_PARAMETER),
        (having(E.SUPPORTED_VERSIONS, b"\x03\x04"), Alert.ILLEGAL_PARAMETER),
        (lambda each: [*each, each[0]], Alert.ILLEGAL_PARAMETER),
    ],
)
def test_invalid_encrypted_extensions_are_refused(change: Callable[[Extensions], Extensions], alert: Alert) -> None:
    assert refused(encrypted_extensions(change)) is alert


def replace(kind: int, message: bytes) -> Callable[[dict[int, bytes]], None]:
    def apply(found: dict[int, bytes]) -> None:
        found[kind] = message

    return apply


def drop(*dropped: int) -> Callable[[dict[int, bytes]], None]:
    def apply(found: dict[int, bytes]) -> None:
        for kind in dropped:
            del found[kind]

    return apply


def patch(kind: int, change: Callable[[bytes], bytes]) -> Callable[[dict[int, bytes]], None]:
    """Change the body of a message, and its length with it."""

    def apply(found: dict[int, bytes]) -> None:
        body = change(found[kind][4:])
        found[kind] = bytes([kind]) + len(body).to_bytes(3) + body

    return apply


def entry(der: bytes, extensions: bytes = b"") -> bytes:
    return len(der).to_bytes(3) + der + len(extensions).to_bytes(2) + extensions


def certificate(*entries: bytes, context: bytes = b"") -> Callable[[dict[int, bytes]], None]:
    chain = b"".join(entries)
    body = bytes([len(context)]) + context + len(chain).to_bytes(3) + chain
    return replace(M.CERTIFICATE, b"\x0b" + len(body).to_bytes(3) + body)


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (certificate(), Alert.DECODE_ERROR),
        (certificate(entry(b"")), Alert.DECODE_ERROR),
        (certificate(entry(b"no certificate")), Alert.BAD_CERTIFICATE),
        (certificate(entry(b"x"), context=b"context"), Alert.ILLEGAL_PARAMETER),
        (certificate(entry(b"x", b"\0\x05\0\x04\x01\0\0\0")), Alert.UNSUPPORTED_EXTENSION),
        (certificate(entry(b"x"), entry(b"y", b"\0\x12\0\0")), Alert.UNSUPPORTED_EXTENSION),
        (certificate(entry(b"x", b"\0\x33\0\0")), Alert.ILLEGAL_PARAMETER),
        (certificate(entry(b"x", b"\0\x12\0\x01")), Alert.DECODE_ERROR),
        (patch(M.CERTIFICATE, lambda body: body + b"\0"), Alert.DECODE_ERROR),
        (patch(M.CERTIFICATE, lambda body: body[:-1]), Alert.DECODE_ERROR),
        (patch(M.CERTIFICATE_VERIFY, lambda body: b"\x08\x07" + body[2:]), Alert.ILLEGAL_PARAMETER),
        (patch(M.CERTIFICATE_VERIFY, lambda body: b"\x04\x01" + body[2:]), Alert.ILLEGAL_PARAMETER),
        (patch(M.CERTIFICATE_VERIFY, lambda body: b"\x05\x03" + body[2:]), Alert.ILLEGAL_PARAMETER),
        (patch(M.CERTIFICATE_VERIFY, lambda body: body[:-1] + bytes([body[-1] ^ 1])), Alert.DECRYPT_ERROR),
        (patch(M.CERTIFICATE_VERIFY, lambda body: body[:2] + b"\0\0"), Alert.DECRYPT_ERROR),
        (patch(M.CERTIFICATE_VERIFY, lambda body: body + b"\0"), Alert.DECODE_ERROR),
        (patch(M.FINISHED, lambda body: bytes([body[0] ^ 1]) + body[1:]), Alert.DECRYPT_ERROR),
        (patch(M.FINISHED, lambda body: body[:-1]), Alert.DECODE_ERROR),
        (patch(M.FINISHED, lambda body: body + b"\0"), Alert.DECODE_ERROR),
        (drop(M.ENCRYPTED_EXTENSIONS), Alert.UNEXPECTED_MESSAGE),
        (drop(M.CERTIFICATE), Alert.UNEXPECTED_MESSAGE),
        (drop(M.CERTIFICATE_VERIFY), Alert.UNEXPECTED_MESSAGE),
        (drop(M.CERTIFICATE, M.CERTIFICATE_VERIFY), Alert.UNEXPECTED_MESSAGE),
        (replace(M.KEY_UPDATE, b"\x18\0\0\x01\0"), Alert.UNEXPECTED_MESSAGE),
    ],
)
def test_invalid_server_flight_is_refused(change: Callable[[dict[int, bytes]], None], alert: Alert) -> None:
    assert refused(change, compressions=()) is alert


def test_compression_that_was_not_offered_is_refused() -> None:
    packed = messages.push_compressed_certificate(7, 100, b"abc")

    def apply(found: dict[int, bytes]) -> None:
        for kind in list(found)[2:]:
            del found[kind]
        found[M.COMPRESSED_CERTIFICATE] = packed

    assert refused(apply) is Alert.ILLEGAL_PARAMETER


def request(extensions: Extensions, context: bytes = b"") -> Callable[[dict[int, bytes]], None]:
    body = block(extensions)
    content = bytes([len(context)]) + context + len(body).to_bytes(2) + body

    def apply(found: dict[int, bytes]) -> None:
        rest = {kind: found.pop(kind) for kind in list(found) if kind not in (M.SERVER_HELLO, M.ENCRYPTED_EXTENSIONS)}
        found[M.CERTIFICATE_REQUEST] = b"\x0d" + len(content).to_bytes(3) + content
        found.update(rest)

    return apply


SCHEMES = (int(E.SIGNATURE_ALGORITHMS), b"\0\x02\x04\x03")


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (request([]), Alert.MISSING_EXTENSION),
        (request([SCHEMES], context=b"context"), Alert.ILLEGAL_PARAMETER),
        (request([SCHEMES, SCHEMES]), Alert.ILLEGAL_PARAMETER),
        (request([(int(E.SIGNATURE_ALGORITHMS), b"\0\0")]), Alert.DECODE_ERROR),
        (request([SCHEMES, (int(E.CERTIFICATE_AUTHORITIES), b"\0\0")]), Alert.DECODE_ERROR),
        (request([SCHEMES, (int(E.OID_FILTERS), b"\0")]), Alert.DECODE_ERROR),
        (request([SCHEMES, (int(E.ALPN), b"\0\x03\x02h3")]), Alert.ILLEGAL_PARAMETER),
        # An unknown extension is ignored: the error is the wrong signature after it.
        (request([SCHEMES, (0x1234, b"")]), Alert.DECRYPT_ERROR),
    ],
)
def test_invalid_certificate_request_is_refused(change: Callable[[dict[int, bytes]], None], alert: Alert) -> None:
    assert refused(change) is alert


def ticket(lifetime: int = 100, extensions: bytes = b"", identity: bytes = b"ticket") -> bytes:
    body = b"".join(
        (
            lifetime.to_bytes(4),
            bytes(4),
            b"\x01n",
            len(identity).to_bytes(2),
            identity,
            len(extensions).to_bytes(2),
            extensions,
        )
    )
    return b"\x04" + len(body).to_bytes(3) + body


@pytest.mark.parametrize(
    ("message", "alert"),
    [
        (ticket(lifetime=604801), Alert.ILLEGAL_PARAMETER),
        (ticket(identity=b""), Alert.DECODE_ERROR),
        (ticket(extensions=b"\0\x2a\0\x02\0\0"), Alert.DECODE_ERROR),
        (ticket(extensions=b"\0\x2a\0\x04\0\0\x40\0"), Alert.ILLEGAL_PARAMETER),
        (ticket(extensions=b"\0\x33\0\0"), Alert.ILLEGAL_PARAMETER),
        (b"\x04\0\0\x04\0\0\0\0", Alert.DECODE_ERROR),
        (b"\x0d\0\0\0", Alert.UNEXPECTED_MESSAGE),
        (b"\x18\0\0\x01\0", Alert.UNEXPECTED_MESSAGE),
    ],
)
def test_invalid_messages_after_the_handshake_are_refused(message: bytes, alert: Alert) -> None:
    done = pair().run()
    with pytest.raises(PeerError) as caught:
        done.client.receive(Level.APPLICATION, message, NOW)
    assert caught.value.alert is alert


def test_valid_tickets_are_accepted() -> None:
    done = pair().run()
    assert kinds(done.client.receive(Level.APPLICATION, ticket(extensions=b"\x12\x34\0\0"), NOW)) == ["SessionTicket"]
    assert done.client.receive(Level.APPLICATION, ticket(lifetime=0), NOW) == []


def test_ticket_too_large_for_a_client_hello_is_dropped() -> None:
    done = pair().run()
    assert kinds(done.client.receive(Level.APPLICATION, ticket(identity=bytes(32 * 1024)), NOW)) == ["SessionTicket"]
    assert done.client.receive(Level.APPLICATION, ticket(identity=bytes(65_400)), NOW) == []
