"""ClientHellos that a server refuses, each with its alert, and unusual ones that it accepts."""

import gc
import struct
import tracemalloc
from dataclasses import dataclass, field

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.model import ClientAuth, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.codepoints import ExtensionType as E
from handshaked.tls.parameters import ClientParameters
from handshaked.tls.server import ServerHandshake
from tests.tls.pair import NOW, client_parameters, data, kinds, server_parameters


@dataclass
class Hello:
    """A parsed ClientHello, to be altered and encoded."""

    version: bytes
    random: bytes
    session_id: bytes
    suites: bytes
    compression: bytes
    extensions: list[tuple[int, bytes]] = field(default_factory=list)

    @classmethod
    def parse(cls, message: bytes) -> "Hello":
        at = 39 + message[38]
        suites_end = at + 2 + int.from_bytes(message[at : at + 2])
        compression_end = suites_end + 1 + message[suites_end]
        hello = cls(
            message[4:6],
            message[6:38],
            message[39:at],
            message[at + 2 : suites_end],
            message[suites_end + 1 : compression_end],
        )
        at = compression_end + 2
        while at < len(message):
            kind, length = struct.unpack_from(">HH", message, at)
            hello.extensions.append((kind, message[at + 4 : at + 4 + length]))
            at += 4 + length
        return hello

    def encode(self, extensions: bytes | None = None) -> bytes:
        if extensions is None:
            extensions = b"".join(struct.pack(">HH", kind, len(body)) + body for kind, body in self.extensions)
            extensions = len(extensions).to_bytes(2) + extensions
        body = b"".join(
            (
                self.version,
                self.random,
                bytes([len(self.session_id)]),
                self.session_id,
                len(self.suites).to_bytes(2),
                self.suites,
                bytes([len(self.compression)]),
                self.compression,
                extensions,
            )
        )
        return b"\x01" + len(body).to_bytes(3) + body

    def without(self, *kinds: int) -> "Hello":
        self.extensions = [each for each in self.extensions if each[0] not in kinds]
        return self

    def put(self, kind: int, body: bytes) -> "Hello":
        """Replace an extension in its place, or append it."""
        if kind in dict(self.extensions):
            self.extensions = [(each, body if each == kind else old) for each, old in self.extensions]
        else:
            self.extensions.append((kind, body))
        return self

    def body(self, kind: int) -> bytes:
        return dict(self.extensions)[kind]


def hello(parameters: ClientParameters | None = None, *, quic: bool = True) -> Hello:
    return Hello.parse(data(ClientHandshake(parameters or client_parameters(), quic=quic).start(NOW)))


def answer(message: bytes, *, quic: bool = True, **changes: object) -> list[str]:
    server = ServerHandshake(quic=quic)
    server.receive(Level.INITIAL, message, NOW)
    return kinds(server.proceed(server_parameters(**changes), NOW))


def refused(message: bytes, *, quic: bool = True, **changes: object) -> Alert:
    with pytest.raises(PeerError) as caught:
        answer(message, quic=quic, **changes)
    return caught.value.alert


def test_parsed_hello_encodes_to_the_same_bytes() -> None:
    message = data(ClientHandshake(client_parameters()).start(NOW))
    assert Hello.parse(message).encode() == message
    assert answer(message)[0] == "crypto initial"


@pytest.mark.parametrize("kind", [kind for kind, _ in hello().extensions])
def test_repeated_extension_is_refused(kind: int) -> None:
    twice = hello()
    twice.extensions.append((kind, twice.body(kind)))
    assert refused(twice.encode()) is Alert.ILLEGAL_PARAMETER


def test_repeated_unknown_extension_is_refused() -> None:
    twice = hello()
    twice.extensions += [(0x1234, b""), (0x1234, b"")]
    assert refused(twice.encode()) is Alert.ILLEGAL_PARAMETER


@pytest.mark.parametrize("kind", [kind for kind, _ in hello().extensions if kind != E.QUIC_TRANSPORT_PARAMETERS])
@pytest.mark.parametrize("change", ["longer", "shorter", "empty"])
def test_malformed_bodies_are_refused(kind: int, change: str) -> None:
    odd = hello()
    body = odd.body(kind)
    odd.put(kind, {"longer": body + b"\0", "shorter": body[:-1], "empty": b""}[change])
    assert refused(odd.encode()) is Alert.DECODE_ERROR


@pytest.mark.parametrize("kind", [kind for kind, _ in hello().extensions])
@pytest.mark.parametrize("wrong", [-1, 1, 1000])
def test_wrong_extension_lengths_are_refused(kind: int, wrong: int) -> None:
    lying = hello()
    block = b"".join(
        struct.pack(">HH", each, max(0, len(body) + (wrong if each == kind else 0))) + body
        for each, body in lying.extensions
    )
    # The next extension starts at the wrong offset: the result is never a valid ClientHello.
    assert refused(lying.encode(len(block).to_bytes(2) + block)) in (
        Alert.DECODE_ERROR,
        Alert.ILLEGAL_PARAMETER,
        Alert.MISSING_EXTENSION,
        Alert.PROTOCOL_VERSION,
    )


@pytest.mark.parametrize("wrong", [-1, 1])
def test_wrong_length_of_all_extensions_is_refused(wrong: int) -> None:
    whole = hello()
    block = b"".join(struct.pack(">HH", kind, len(body)) + body for kind, body in whole.extensions)
    assert refused(whole.encode((len(block) + wrong).to_bytes(2) + block)) is Alert.DECODE_ERROR


@pytest.mark.parametrize(
    ("kinds_missing", "alert"),
    [
        ((E.SUPPORTED_VERSIONS,), Alert.PROTOCOL_VERSION),
        ((E.SUPPORTED_GROUPS,), Alert.MISSING_EXTENSION),
        ((E.KEY_SHARE,), Alert.MISSING_EXTENSION),
        ((E.KEY_SHARE, E.SUPPORTED_GROUPS), Alert.MISSING_EXTENSION),
        ((E.SIGNATURE_ALGORITHMS,), Alert.MISSING_EXTENSION),
        ((E.ALPN,), Alert.NO_APPLICATION_PROTOCOL),
        ((E.QUIC_TRANSPORT_PARAMETERS,), Alert.MISSING_EXTENSION),
    ],
)
def test_missing_extensions_are_refused(kinds_missing: tuple[int, ...], alert: Alert) -> None:
    assert refused(hello().without(*kinds_missing).encode()) is alert


def test_hello_without_extensions_is_refused() -> None:
    assert refused(hello().encode(b"")) is Alert.PROTOCOL_VERSION


@pytest.mark.parametrize(
    ("kind", "body", "alert"),
    [
        (E.SUPPORTED_VERSIONS, b"\x02\x03\x03", Alert.PROTOCOL_VERSION),
        (E.SUPPORTED_VERSIONS, b"\x03\x03\x04\x03", Alert.DECODE_ERROR),
        (E.SERVER_NAME, b"\0\x05\0\0\x02a\0", Alert.ILLEGAL_PARAMETER),
        (E.SERVER_NAME, b"\0\x05\0\0\x02\xc3\xa4", Alert.ILLEGAL_PARAMETER),
        (E.SERVER_NAME, b"\0\x05\x01\0\x02ab", Alert.ILLEGAL_PARAMETER),
        (E.SERVER_NAME, b"\0\x08\0\0\x01a\0\0\x01b", Alert.ILLEGAL_PARAMETER),
        (E.SERVER_NAME, b"\0\x03\0\0\0", Alert.DECODE_ERROR),
        (E.ALPN, b"\0\0", Alert.DECODE_ERROR),
        (E.ALPN, b"\0\x01\0", Alert.DECODE_ERROR),
        (E.ALPN, b"\0\x03\x03h3", Alert.DECODE_ERROR),
        (E.SUPPORTED_GROUPS, b"\0\0", Alert.DECODE_ERROR),
        (E.SIGNATURE_ALGORITHMS, b"\0\0", Alert.DECODE_ERROR),
        (E.SIGNATURE_ALGORITHMS, b"\0\x02\x04\x01", Alert.HANDSHAKE_FAILURE),
        (E.KEY_SHARE, b"\0\x04\0\x1d\0\0", Alert.ILLEGAL_PARAMETER),
        (E.KEY_SHARE, b"\0\x05\0\x1d\0\x01\x01", Alert.ILLEGAL_PARAMETER),
        (E.KEY_SHARE, b"\0\x24\0\x1d\0\x20" + bytes(32), Alert.ILLEGAL_PARAMETER),
        (E.KEY_SHARE, b"\0\x48" + (b"\0\x1d\0\x20" + b"\x09" * 32) * 2, Alert.ILLEGAL_PARAMETER),
        (E.KEY_SHARE, b"\0\x24\x56\x78\0\x20" + b"\x09" * 32, Alert.ILLEGAL_PARAMETER),
        (E.EARLY_DATA, b"", Alert.ILLEGAL_PARAMETER),
        (E.EARLY_DATA, b"\0", Alert.DECODE_ERROR),
        (E.COOKIE, b"\0\0", Alert.DECODE_ERROR),
        (E.OID_FILTERS, b"\0\0", Alert.ILLEGAL_PARAMETER),
        (E.POST_HANDSHAKE_AUTH, b"\0", Alert.DECODE_ERROR),
        (E.STATUS_REQUEST, b"\x01\0\0", Alert.DECODE_ERROR),
        (E.COMPRESS_CERTIFICATE, b"\0", Alert.DECODE_ERROR),
        (E.RECORD_SIZE_LIMIT, b"\0\x3f", Alert.ILLEGAL_PARAMETER),
        (E.CERTIFICATE_AUTHORITIES, b"\0\0", Alert.DECODE_ERROR),
        (E.PSK_KEY_EXCHANGE_MODES, b"\0", Alert.DECODE_ERROR),
        (E.PRE_SHARED_KEY, b"\0\0\0\0", Alert.DECODE_ERROR),
    ],
)
def test_invalid_bodies_are_refused(kind: int, body: bytes, alert: Alert) -> None:
    assert refused(hello().put(kind, body).encode()) is alert


def psk(identities: int = 1, binders: int = 1, binder: bytes = bytes(32)) -> bytes:
    names = (b"\0\x04name" + bytes(4)) * identities
    proofs = (bytes([len(binder)]) + binder) * binders
    return len(names).to_bytes(2) + names + len(proofs).to_bytes(2) + proofs


def test_unknown_psk_is_ignored() -> None:
    assert answer(hello().put(E.PRE_SHARED_KEY, psk()).encode())[0] == "crypto initial"


@pytest.mark.parametrize(("identities", "binders"), [(1, 2), (2, 1)])
def test_numbers_of_binders_and_identities_must_match(identities: int, binders: int) -> None:
    odd = hello().put(E.PRE_SHARED_KEY, psk(identities, binders))
    assert refused(odd.encode()) is Alert.ILLEGAL_PARAMETER


def test_binders_are_at_least_32_bytes() -> None:
    assert refused(hello().put(E.PRE_SHARED_KEY, psk(binder=bytes(31))).encode()) is Alert.DECODE_ERROR


def test_pre_shared_key_must_be_last() -> None:
    odd = hello().put(E.PRE_SHARED_KEY, psk())
    odd.extensions.append((0x1234, b""))
    assert refused(odd.encode()) is Alert.ILLEGAL_PARAMETER


def test_pre_shared_key_requires_modes() -> None:
    odd = hello().without(E.PSK_KEY_EXCHANGE_MODES).put(E.PRE_SHARED_KEY, psk())
    assert refused(odd.encode()) is Alert.MISSING_EXTENSION


def test_psk_without_key_share_is_refused() -> None:
    odd = hello().without(E.KEY_SHARE, E.SUPPORTED_GROUPS).put(E.PRE_SHARED_KEY, psk())
    assert refused(odd.encode()) is Alert.MISSING_EXTENSION


def test_signature_algorithms_are_required_if_the_psk_is_not_selected() -> None:
    odd = hello().without(E.SIGNATURE_ALGORITHMS).put(E.PRE_SHARED_KEY, psk())
    assert refused(odd.encode()) is Alert.MISSING_EXTENSION


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        ({"version": b"\x03\x00"}, Alert.PROTOCOL_VERSION),
        ({"version": b"\x02\x00"}, Alert.PROTOCOL_VERSION),
        ({"compression": b"\x01\x00"}, Alert.ILLEGAL_PARAMETER),
        ({"compression": b"\x01"}, Alert.ILLEGAL_PARAMETER),
        ({"compression": b""}, Alert.DECODE_ERROR),
        ({"suites": b""}, Alert.DECODE_ERROR),
        ({"suites": b"\x13\x01\x13"}, Alert.DECODE_ERROR),
        ({"suites": b"\x00\x2f"}, Alert.HANDSHAKE_FAILURE),
        ({"session_id": bytes(33)}, Alert.DECODE_ERROR),
        ({"session_id": bytes(32)}, Alert.ILLEGAL_PARAMETER),
    ],
)
def test_invalid_fields_are_refused(change: dict[str, bytes], alert: Alert) -> None:
    odd = hello()
    for name, value in change.items():
        setattr(odd, name, value)
    assert refused(odd.encode()) is alert


@pytest.mark.parametrize("version", [b"\x03\x01", b"\x03\x02", b"\x03\x04", b"\x04\x00", b"\x7f\x1c", b"\xff\xff"])
@pytest.mark.parametrize("quic", [True, False])
def test_legacy_version_is_ignored(version: bytes, quic: bool) -> None:
    """RFC 8446 section 4.2.1: servers "MUST NOT use the ClientHello.legacy_version value for version negotiation"."""
    odd = hello(quic=quic)
    odd.version = version
    assert "crypto handshake" in answer(odd.encode(), quic=quic)


def test_session_id_is_echoed_over_tcp() -> None:
    server = ServerHandshake(quic=False)
    message = hello(quic=False)
    server.receive(Level.INITIAL, message.encode(), NOW)
    assert message.session_id in data(server.proceed(server_parameters(), NOW), Level.INITIAL)


@pytest.mark.parametrize("size", range(4, 60))
def test_truncated_hello_is_refused(size: int) -> None:
    message = hello().encode()[:size]
    assert refused(b"\x01" + (size - 4).to_bytes(3) + message[4:]) in (Alert.DECODE_ERROR, Alert.PROTOCOL_VERSION)


def test_hello_with_trailing_bytes_is_refused() -> None:
    with pytest.raises(PeerError) as caught:
        ServerHandshake().receive(Level.INITIAL, b"\x01\x01\x04\x01", NOW)
    assert caught.value.alert is Alert.ILLEGAL_PARAMETER


def test_many_unknown_schemes_and_groups_are_dropped() -> None:
    many = hello()
    numbers = b"".join(number.to_bytes(2) for number in range(0x0500, 0x0500 + 15_000))
    for kind in (E.SIGNATURE_ALGORITHMS, E.SUPPORTED_GROUPS):
        body = numbers + many.body(kind)[2:]
        many.put(kind, len(body).to_bytes(2) + body)
    server = ServerHandshake()
    server.receive(Level.INITIAL, many.encode(), NOW)
    assert server.client_hello is not None
    assert len(server.client_hello.signature_schemes) < 20
    assert kinds(server.proceed(server_parameters(), NOW))[-1] == "secret application send"


def vector(items: bytes, size: int = 2) -> bytes:
    return len(items).to_bytes(size) + items


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        (E.ALPN, lambda number: b"\x04" + number.to_bytes(4)),
        (E.KEY_SHARE, lambda number: number.to_bytes(2) + b"\0\x01s"),
        (E.PRE_SHARED_KEY, None),
        (None, None),
    ],
)
def test_hello_with_many_entries_takes_bounded_memory(kind: int | None, item: object) -> None:
    odd = hello()
    numbers = range(0x2000, 0x2000 + 7_000)
    if kind is None:
        odd.extensions += [(number, b"") for number in numbers]
    elif kind is E.PRE_SHARED_KEY:
        odd.put(kind, psk(1_000, 1_000))
    else:
        odd.put(kind, vector(b"".join(item(number) for number in numbers)))  # type: ignore[operator]  # a callable
    if kind is E.KEY_SHARE:
        odd.put(E.SUPPORTED_GROUPS, vector(b"".join(number.to_bytes(2) for number in numbers)))
    message = odd.encode()
    server = ServerHandshake()
    gc.collect()
    tracemalloc.start()
    try:
        server.receive(Level.INITIAL, message, NOW)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert server.client_hello is not None
    assert held < 1.5 * len(message)


def test_protocols_after_the_256th_are_ignored() -> None:
    many = [number.to_bytes(2) for number in range(300)]
    server = ServerHandshake()
    message = hello().put(E.ALPN, vector(b"".join(vector(each, 1) for each in many)))
    server.receive(Level.INITIAL, message.encode(), NOW)
    assert server.client_hello is not None
    assert server.client_hello.alpns == tuple(many[:256])


@pytest.mark.parametrize("wrong", [b"\0", b"\3ab"], ids=["empty", "truncated"])
def test_ignored_protocols_must_be_well_formed(wrong: bytes) -> None:
    message = hello().put(E.ALPN, vector(b"\1a" * 300 + wrong))
    with pytest.raises(PeerError) as caught:
        ServerHandshake().receive(Level.INITIAL, message.encode(), NOW)
    assert caught.value.alert is Alert.DECODE_ERROR


def test_grease_is_ignored() -> None:
    grease = hello()
    grease.suites = b"\x0a\x0a" + grease.suites
    for kind in (E.SUPPORTED_GROUPS, E.SIGNATURE_ALGORITHMS):
        body = grease.body(kind)[2:] + b"\x1a\x1a"
        grease.put(kind, len(body).to_bytes(2) + body)
    shares = b"\x1a\x1a\0\x01\0" + grease.body(E.KEY_SHARE)[2:]
    grease.put(E.KEY_SHARE, len(shares).to_bytes(2) + shares)
    grease.put(E.SUPPORTED_VERSIONS, b"\x04\x2a\x2a\x03\x04")
    grease.put(E.PSK_KEY_EXCHANGE_MODES, b"\x02\x0b\x01")
    grease.put(E.ALPN, b"\0\x06\x02\x3a\x3a\x02h3")
    grease.put(E.COMPRESS_CERTIFICATE, b"\x02\x0a\x0a")
    grease.extensions.insert(0, (0x4A4A, b""))
    grease.extensions.insert(3, (0xFE0D, b"\0\0\x01\0\x01\x20\0\x20" + bytes(32) + b"\0\x90" + bytes(144)))
    grease.extensions.append((0x5A5A, b"\0"))
    assert answer(grease.encode())[-1] == "secret application send"


def test_client_without_psk_dhe_ke_gets_no_tickets() -> None:
    odd = hello().put(E.PSK_KEY_EXCHANGE_MODES, b"\x01\0")
    assert answer(odd.encode())[-1] == "secret application send"


def test_client_auth_requires_no_extension_of_the_client() -> None:
    class Accepting:
        trust = b""

        def verify(self, chain: tuple[bytes, ...], now: float) -> None:
            return

    events = answer(hello().encode(), client_auth=ClientAuth.REQUEST, client_verifier=Accepting())
    assert events[-1] == "secret application send"
