"""Two sessions with each other, without I/O, and with peers and callers that misbehave."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handshaked.errors import Alert, Status
from handshaked.events import (
    CryptoData,
    HandshakeComplete,
    HandshakeFailed,
    PeerTransportParameters,
)
from handshaked.model import DEFAULT_CIPHER_SUITES, AuthMode, Caller, CipherSuite, Direction, KeyType, Level, Role
from handshaked.testing.authority import Authority
from tests.conftest import Issue
from tests.registered import Registered
from tests.session.sessions import (
    CLIENT_PARAMETERS,
    KEY_TYPES,
    NAME,
    NOW,
    SERVER_PARAMETERS,
    byte_by_byte,
    client,
    failure,
    flight,
    kinds,
    run,
    secrets,
    server,
    whole,
)

# The order of events is part of the interface.

SERVER_ORDER = [
    PeerTransportParameters,
    Level.INITIAL,
    (Level.HANDSHAKE, Direction.SEND),
    (Level.HANDSHAKE, Direction.RECEIVE),
    Level.HANDSHAKE,
    (Level.APPLICATION, Direction.SEND),
    (Level.APPLICATION, Direction.RECEIVE),
    HandshakeComplete,
]
CLIENT_ORDER = [
    Level.INITIAL,
    (Level.HANDSHAKE, Direction.RECEIVE),
    (Level.HANDSHAKE, Direction.SEND),
    PeerTransportParameters,
    (Level.APPLICATION, Direction.RECEIVE),
    (Level.APPLICATION, Direction.SEND),
    Level.HANDSHAKE,
    HandshakeComplete,
]


@pytest.mark.parametrize("cut", [whole, byte_by_byte])
def test_events_have_the_documented_order_for_any_split(
    registered: Registered, cut: Callable[[CryptoData], list[bytes]]
) -> None:
    ours, theirs = run(client(registered), server(registered), cut)
    assert kinds(ours) == CLIENT_ORDER
    assert kinds(theirs) == SERVER_ORDER


@given(number=st.integers(0, 2**32))
@settings(max_examples=20)
def test_any_split_gives_the_same_result(registered: Registered, number: int) -> None:
    seed = random.Random(number)

    def anyhow(data: CryptoData) -> list[bytes]:
        cuts = sorted({0, len(data.data), *(seed.randrange(len(data.data)) for _ in range(4))})
        return [data.data[start:end] for start, end in pairwise(cuts)]

    ours, theirs = run(client(registered), server(registered), anyhow)
    assert (kinds(ours), kinds(theirs)) == (CLIENT_ORDER, SERVER_ORDER)


def test_both_sides_derive_the_same_secrets_and_agree_on_everything(registered: Registered) -> None:
    ours, theirs = run(client(registered, alpns=(b"hq", b"h3")), server(registered))
    flipped = {(level, Direction(1 - direction)): secret for (level, direction), secret in secrets(ours).items()}
    assert secrets(theirs) == flipped
    assert len(flipped) == 4
    assert next(e for e in theirs if isinstance(e, PeerTransportParameters)) == PeerTransportParameters(
        CLIENT_PARAMETERS, b"hq"
    )
    assert next(e for e in ours if isinstance(e, PeerTransportParameters)) == PeerTransportParameters(
        SERVER_PARAMETERS, b"hq"
    )
    mine, other = ours[-1], theirs[-1]
    assert isinstance(mine, HandshakeComplete)
    assert isinstance(other, HandshakeComplete)
    assert (mine.alpn, mine.server_name, mine.resumed) == (other.alpn, other.server_name, other.resumed)
    assert (other.alpn, other.server_name, other.resumed, other.registration) == (b"hq", NAME, False, "web")
    assert mine.cipher_suite is other.cipher_suite
    assert mine.peer_certificates == registered.credentials[0].chain
    assert other.peer_certificates == ()


def test_reprs_omit_secrets(registered: Registered) -> None:
    ours, theirs = run(client(registered), server(registered))
    shown = repr(ours) + repr(theirs)
    for secret in [*secrets(ours).values(), *secrets(theirs).values()]:
        assert repr(secret)[2:14] not in shown
        assert secret.hex() not in shown


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_handshake_with_every_key_type(registered: Registered, key_type: KeyType) -> None:
    ours, theirs = run(client(registered, server_name=f"{key_type.value}.example.com"), server(registered))
    assert isinstance(ours[-1], HandshakeComplete)
    assert theirs[-1].registration == key_type.value


@pytest.mark.parametrize("suite", DEFAULT_CIPHER_SUITES)
@pytest.mark.parametrize("side", [Role.CLIENT, Role.SERVER])
def test_either_side_can_choose_the_cipher_suite(registered: Registered, suite: CipherSuite, side: Role) -> None:
    limits = {"cipher_suites": (suite,)}
    ours, theirs = run(
        client(registered, **(limits if side is Role.CLIENT else {})),
        server(registered, **(limits if side is Role.SERVER else {})),
    )
    assert ours[-1].cipher_suite is theirs[-1].cipher_suite is suite
    assert {len(secret) for secret in secrets(ours).values()} == {suite.secret_length}


# A server waits after the ClientHello, until it has what it needs.


def test_a_server_waits_for_its_own_transport_parameters(registered: Registered) -> None:
    ours, theirs = client(registered), server(registered, transport_parameters=None)
    theirs.start(NOW)
    (hello,) = flight(ours.start(NOW))
    found = theirs.receive(Level.INITIAL, hello.data, NOW)
    assert kinds(found) == [PeerTransportParameters]
    assert kinds(theirs.proceed(SERVER_PARAMETERS, NOW)) == SERVER_ORDER[1:6]


def test_transport_parameters_may_come_before_the_client_hello(registered: Registered) -> None:
    ours, theirs = client(registered), server(registered, transport_parameters=None)
    theirs.start(NOW)
    assert theirs.proceed(SERVER_PARAMETERS, NOW) == []
    (hello,) = flight(ours.start(NOW))
    assert kinds(theirs.receive(Level.INITIAL, hello.data, NOW)) == SERVER_ORDER[:6]


@pytest.mark.parametrize(
    ("asked", "alert"),
    [
        ({"server_name": "unknown.example.com"}, Alert.UNRECOGNIZED_NAME),
        ({"alpns": (b"unknown",)}, Alert.NO_APPLICATION_PROTOCOL),
        ({"server_name": "a.b.w.example.com"}, Alert.UNRECOGNIZED_NAME),
        ({"server_name": "192.0.2.1"}, Alert.MISSING_EXTENSION),  # an address is not sent as SNI
    ],
)
def test_client_without_matching_registration_is_refused_with_the_right_alert(
    registered: Registered, asked: dict[str, object], alert: Alert
) -> None:
    _, theirs = run(client(registered, **asked), server(registered))
    assert (failure(theirs).alert, failure(theirs).status) == (alert, Status.REFUSED)
    assert kinds(theirs) == [HandshakeFailed]


def test_registrations_of_other_callers_are_invisible(registered: Registered) -> None:
    _, theirs = run(client(registered), server(registered, caller=Caller(uid=2000)))
    assert failure(theirs).alert is Alert.UNRECOGNIZED_NAME


def test_request_restricts_protocols_and_registrations(registered: Registered) -> None:
    _, theirs = run(client(registered, alpns=(b"h3", b"smb")), server(registered, alpns=(b"smb",)))
    assert theirs[-1].registration == "smb"
    _, theirs = run(client(registered), server(registered, registration="smb"))
    assert failure(theirs).alert is Alert.NO_APPLICATION_PROTOCOL


def test_handshake_keeps_the_snapshot_of_its_start(authority: Authority, issue: Issue) -> None:
    registered = Registered(authority)
    registered.add("web", (KeyType.ECDSA_P256, issue(NAME)), names=(NAME,))
    theirs = server(registered)
    registered.registrations.clear()
    _, events = run(client(registered), theirs)
    assert events[-1].registration == "web"


def test_missing_credential_is_a_local_error(authority: Authority, issue: Issue) -> None:
    registered = Registered(authority)
    registered.add("web", (KeyType.ECDSA_P256, issue(NAME)), names=(NAME,))
    theirs = server(registered)
    registered.credentials.clear()
    _, events = run(client(registered), theirs)
    assert (failure(events).alert, failure(events).status) == (Alert.INTERNAL_ERROR, Status.NO_KEY)


def test_oversized_transport_parameters_are_refused(registered: Registered) -> None:
    for session in (
        client(registered, transport_parameters=bytes(4097)),
        server(registered, transport_parameters=bytes(4097)),
    ):
        assert failure(session.start(NOW)).status == Status.INVALID
    theirs = server(registered, transport_parameters=None)
    assert failure(theirs.proceed(bytes(4097), NOW)).status == Status.INVALID


def test_passing_transport_parameters_twice_is_a_caller_error(registered: Registered) -> None:
    theirs = server(registered)
    theirs.start(NOW)
    assert failure(theirs.proceed(SERVER_PARAMETERS, NOW)).status == Status.INVALID


# Verification by the client.


def test_client_refuses_an_untrusted_authority(registered: Registered, tmp_path: object, issue: Issue) -> None:
    other = Registered(Authority(tmp_path, "another CA"))  # type: ignore[arg-type] # a path
    ours, _ = run(client(other), server(registered))
    assert failure(ours).alert is Alert.UNKNOWN_CA


def test_client_refuses_a_certificate_for_another_name(authority: Authority, issue: Issue) -> None:
    registered = Registered(authority)
    registered.add("web", (KeyType.ECDSA_P256, issue("other.example.com")), names=(NAME,))
    ours, _ = run(client(registered), server(registered))
    assert failure(ours).alert is Alert.BAD_CERTIFICATE


def test_client_refuses_an_expired_certificate(authority: Authority, issue: Issue) -> None:
    registered = Registered(authority)
    expired = authority.issue(NAME, valid=(-3, -1), file_name="expired")
    registered.add("web", (KeyType.ECDSA_P256, expired), names=(NAME,))
    ours, _ = run(client(registered), server(registered))
    assert failure(ours).alert is Alert.CERTIFICATE_EXPIRED


def test_client_verifies_an_ip_address(authority: Authority, issue: Issue) -> None:
    registered = Registered(authority)
    registered.add("web", (KeyType.ECDSA_P256, issue("192.0.2.1")))
    ours, theirs = run(client(registered, server_name="192.0.2.1"), server(registered))
    assert isinstance(ours[-1], HandshakeComplete)
    assert theirs[-1].server_name is None
    ours, _ = run(client(registered, server_name="192.0.2.2"), server(registered))
    assert failure(ours).alert is Alert.BAD_CERTIFICATE


def test_unauthenticated_client_accepts_any_certificate(authority: Authority, issue: Issue) -> None:
    registered = Registered(authority)
    expired = authority.issue("other.example.com", valid=(-3, -1), file_name="other-expired")
    registered.add("web", (KeyType.ECDSA_P256, expired))
    ours, _ = run(client(registered, auth_mode=AuthMode.UNAUTH, server_name=None), server(registered))
    assert isinstance(ours[-1], HandshakeComplete)
    assert len(ours[-1].peer_certificates) == 1


def test_unspecified_auth_mode_verifies(registered: Registered, tmp_path: object) -> None:
    other = Registered(Authority(tmp_path, "another CA"))  # type: ignore[arg-type] # a path
    ours, _ = run(client(other, auth_mode=AuthMode.UNSPEC), server(registered))
    assert failure(ours).alert is Alert.UNKNOWN_CA


@pytest.mark.parametrize("role", Role)
def test_psk_mode_without_keys_is_refused(registered: Registered, role: Role) -> None:
    make = client if role is Role.CLIENT else server
    assert failure(make(registered, auth_mode=AuthMode.PSK).start(NOW)).status == Status.UNSUPPORTED


@pytest.mark.parametrize(
    "asked",
    [
        {"alpns": ()},
        {"transport_parameters": None},
        {"server_name": None},
        {"server_name": ""},
        {"server_name": "not a host name"},
        {"server_name": "*.example.com"},
        {"server_name": "a..example.com"},
        {"server_name": "not a host name", "auth_mode": AuthMode.UNAUTH},
    ],
)
def test_invalid_client_request_is_a_caller_error(registered: Registered, asked: dict[str, object]) -> None:
    failed = failure(client(registered, **asked).start(NOW))
    assert (failed.alert, failed.status) == (Alert.INTERNAL_ERROR, Status.INVALID)


def test_client_sends_the_canonical_server_name(authority: Authority, issue: Issue) -> None:
    registered = Registered(authority)
    registered.add("web", (KeyType.ECDSA_P256, issue("xn--bcher-kva.example")), names=("xn--bcher-kva.example",))
    ours, theirs = run(client(registered, server_name="Bücher.example."), server(registered))
    assert ours[-1].server_name == theirs[-1].server_name == "xn--bcher-kva.example"


def test_client_credential_of_another_caller_is_refused(registered: Registered) -> None:
    for asked in (
        {"registration": "unknown"},
        {"registration": "web", "caller": Caller(uid=2000)},
        {"registration": "web", "credential": bytes(32)},
    ):
        assert failure(client(registered, **asked).start(NOW)).status == Status.NO_KEY


def test_client_cannot_pass_transport_parameters_after_its_start(registered: Registered) -> None:
    ours = client(registered)
    ours.start(NOW)
    assert failure(ours.proceed(CLIENT_PARAMETERS, NOW)).status == Status.INVALID


def test_crypto_data_before_the_start_is_a_caller_error(registered: Registered) -> None:
    assert failure(client(registered).receive(Level.INITIAL, b"\2", NOW)).status == Status.INVALID


# Misbehaving peers.


@pytest.mark.parametrize("level", [Level.HANDSHAKE, Level.APPLICATION, Level.EARLY])
def test_messages_at_another_level_are_unexpected(registered: Registered, level: Level) -> None:
    ours, theirs = client(registered), server(registered)
    (hello,) = flight(ours.start(NOW))
    theirs.start(NOW)
    assert failure(theirs.receive(level, hello.data, NOW)).alert is Alert.UNEXPECTED_MESSAGE
    assert failure(ours.receive(level, b"\2\0\0\0", NOW)).alert is Alert.UNEXPECTED_MESSAGE


def test_server_refuses_bytes_after_the_client_hello(registered: Registered) -> None:
    ours, theirs = client(registered), server(registered, transport_parameters=None)
    theirs.start(NOW)
    (hello,) = flight(ours.start(NOW))
    theirs.receive(Level.INITIAL, hello.data, NOW)
    assert failure(theirs.receive(Level.INITIAL, hello.data, NOW)).alert is Alert.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("length", [65 * 1024 + 1, 2**24 - 1])
def test_oversized_message_is_refused_before_it_is_received(registered: Registered, length: int) -> None:
    theirs = server(registered)
    theirs.start(NOW)
    failed = failure(theirs.receive(Level.INITIAL, b"\1" + length.to_bytes(3), NOW))
    assert failed.alert is Alert.ILLEGAL_PARAMETER
    assert f"message of {length} bytes" in failed.reason


def test_no_events_after_a_failure(registered: Registered) -> None:
    ours, theirs = client(registered), server(registered)
    (hello,) = flight(ours.start(NOW))
    theirs.start(NOW)
    failure(theirs.receive(Level.HANDSHAKE, b"", NOW) or theirs.receive(Level.HANDSHAKE, b"\1", NOW))
    assert theirs.receive(Level.INITIAL, hello.data, NOW) == []
    assert theirs.proceed(SERVER_PARAMETERS, NOW) == []
    assert theirs.start(NOW) == []
