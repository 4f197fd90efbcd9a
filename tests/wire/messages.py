"""Hypothesis strategies for all messages of the family."""

from hypothesis import strategies as st

from handshaked.errors import Alert
from handshaked.events import CryptoData, PeerTransportParameters, SessionTicket, TrafficSecret
from handshaked.model import AuthMode, CipherSuite, Direction, Level, Outcome, Role
from handshaked.wire.messages import Close, Done, Lookup, LookupAnswer, Start

PRINTABLE = st.characters(codec="utf-8").filter(str.isprintable)
ALPNS = st.binary(min_size=1, max_size=255)
SEQUENCES = st.integers(0, 0xFFFFFFFF)


def texts(maximum: int) -> st.SearchStrategy[str]:
    """Generate printable text of at most `maximum` bytes."""
    return st.text(PRINTABLE, max_size=40).filter(lambda text: len(text.encode()) <= maximum)


STARTS = st.builds(
    Start,
    role=st.sampled_from(Role),
    timeout=st.none() | st.integers(0, 600_000).map(lambda milliseconds: milliseconds / 1000),
    auth_mode=st.sampled_from(AuthMode),
    server_name=st.none() | texts(253),
    alpns=st.lists(ALPNS, max_size=5).map(tuple),
    transport_parameters=st.none() | st.binary(max_size=300),
    registration=st.none() | texts(255),
    credential=st.none() | st.binary(min_size=32, max_size=32),
    cipher_suites=st.lists(st.sampled_from(CipherSuite), max_size=4).map(tuple),
    trust_anchors=st.lists(st.binary(max_size=100), max_size=3).map(tuple),
    session_ticket=st.none() | st.binary(max_size=300),
    ticket_seconds=st.integers(0, 60),
    early_data=st.none() | st.binary(max_size=255),
    peer_address=st.none() | texts(64),
)
CRYPTO = st.builds(CryptoData, st.sampled_from(Level), st.binary(max_size=300))
DAEMON_CRYPTO = CRYPTO.filter(lambda data: data.level is not Level.EARLY)


@st.composite
def _secrets(draw: st.DrawFn) -> TrafficSecret:
    level = draw(st.sampled_from([level for level in Level if level is not Level.INITIAL]))
    suite = draw(st.sampled_from(CipherSuite))
    length = suite.secret_length
    return TrafficSecret(
        level, draw(st.sampled_from(Direction)), suite, draw(st.binary(min_size=length, max_size=length))
    )


SECRETS = _secrets()
PEER_PARAMETERS = st.builds(PeerTransportParameters, st.binary(max_size=300), ALPNS)
STATUSES = st.integers(1, 133)
QUIC_ERRORS = st.integers(0, 2**32 - 1)
OUTCOMES = st.builds(
    Outcome,
    status=st.just(0) | STATUSES,
    alert=st.none() | st.sampled_from(Alert),
    reason=texts(1000),
    alpn=st.none() | ALPNS,
    server_name=st.none() | texts(60),
    registration=st.none() | texts(255),
    cipher_suite=st.none() | st.sampled_from(CipherSuite),
    resumed=st.booleans(),
    early_data_accepted=st.booleans(),
    peer_certificates=st.lists(st.binary(max_size=100), max_size=3).map(tuple),
    quic_error=st.none() | QUIC_ERRORS,
).map(lambda outcome: outcome if outcome.status else Outcome(**{**fields(outcome), "reason": ""}))
TICKETS = st.builds(SessionTicket, st.binary(max_size=300), st.integers(0, 2**32 - 1), st.booleans())
CLOSES = st.builds(Close, QUIC_ERRORS, texts(1000))
DONES = st.builds(Done, OUTCOMES)
LOOKUPS = st.builds(Lookup, client_hello=st.binary(max_size=300)) | st.builds(
    Lookup, datagrams=st.lists(st.binary(max_size=300), min_size=1, max_size=3).map(tuple)
)
ANSWERS = st.builds(
    LookupAnswer,
    status=st.just(0) | STATUSES,
    registration=st.none() | texts(255),
    alpn=st.none() | ALPNS,
    server_name=st.none() | texts(60),
    alert=st.none() | st.sampled_from(Alert),
    reason=texts(1000),
    quic_error=st.none() | QUIC_ERRORS,
)


def fields(outcome: Outcome) -> dict[str, object]:
    """Return the fields of `outcome` by name."""
    return {name: getattr(outcome, name) for name in Outcome.__dataclass_fields__}
