"""The matching rules, one by one, and compared with a naive implementation."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import Alert, HandshakeError, PeerError
from handshaked.model import KERNEL, Caller, KeyType, SignatureScheme
from handshaked.registry.registration import Access, CredentialReference, Registration
from handshaked.registry.snapshot import Query, Selection, Snapshot

OWNER = Caller(uid=1000, gids=frozenset({1000}))
STRANGER = Caller(uid=4000, gids=frozenset({4000, 4001}))
ECDSA = CredentialReference(1, KeyType.ECDSA_P256, b"e" * 32)
NOBODY_ELSE = Access()
RSA = CredentialReference(2, KeyType.RSA, b"r" * 32)


def registration(
    identity: int,
    names: Iterable[str],
    alpns: Iterable[bytes],
    *,
    credentials: tuple[CredentialReference, ...] = (ECDSA,),
    owner: int = OWNER.uid,
    access: Access = NOBODY_ELSE,
) -> Registration:
    return Registration(identity, f"r{identity}", owner, tuple(names), tuple(alpns), credentials, access)


def query(name: str | None, *alpns: bytes, caller: Caller = OWNER, **limits: object) -> Query:
    return Query(caller, name, alpns, **limits)  # the fields of a query, by name


def refusal(snapshot: Snapshot, asked: Query) -> PeerError:
    with pytest.raises(PeerError) as caught:
        snapshot.select(asked)
    return caught.value


# Rule 1: what the caller may use and what shares an ALPN.


def test_less_specific_registration_wins_if_the_other_shares_no_protocol() -> None:
    snapshot = Snapshot([registration(1, ["a.example.com"], [b"smb"]), registration(2, ["*.example.com"], [b"h3"])])
    assert snapshot.select(query("a.example.com", b"h3")).registration.id == 2


def test_less_specific_registration_wins_if_the_caller_may_not_use_the_other() -> None:
    others = registration(1, ["a.example.com"], [b"h3"], owner=2000)
    snapshot = Snapshot([others, registration(2, [], [b"h3"])])
    assert snapshot.select(query("a.example.com", b"h3")).registration.id == 2


@pytest.mark.parametrize(
    ("caller", "access"),
    [
        (OWNER, NOBODY_ELSE),
        (Caller(uid=0), NOBODY_ELSE),
        (STRANGER, Access(uids=frozenset({4000}))),
        (STRANGER, Access(gids=frozenset({4001}))),
        (KERNEL, Access(kernel=True)),
    ],
)
def test_owner_root_and_allowed_callers_may_use_a_registration(caller: Caller, access: Access) -> None:
    snapshot = Snapshot([registration(1, ["a.example.com"], [b"h3"], access=access)])
    assert snapshot.select(query("a.example.com", b"h3", caller=caller)).registration.id == 1


@pytest.mark.parametrize(
    ("caller", "access"),
    [
        (STRANGER, NOBODY_ELSE),
        (STRANGER, Access(uids=frozenset({4001}), gids=frozenset({1000}), kernel=True)),
        (KERNEL, NOBODY_ELSE),
        (KERNEL, Access(uids=frozenset({0}))),  # the kernel has no uid
    ],
)
def test_registration_is_hidden_from_other_callers(caller: Caller, access: Access) -> None:
    snapshot = Snapshot([registration(1, ["a.example.com"], [b"h3"], access=access)])
    assert refusal(snapshot, query("a.example.com", b"h3", caller=caller)).alert is Alert.UNRECOGNIZED_NAME


# Rule 2: the most specific name.


@pytest.mark.parametrize(
    ("name", "winner"), [("a.example.com", 1), ("b.example.com", 2), ("example.com", 3), ("c.b.example.com", 3)]
)
def test_exact_name_wins_over_wildcard_and_wildcard_over_no_name(name: str, winner: int) -> None:
    snapshot = Snapshot(
        [
            registration(3, [], [b"h3"]),
            registration(2, ["*.example.com"], [b"h3"]),
            registration(1, ["a.example.com"], [b"h3"]),
        ]
    )
    assert snapshot.select(query(name, b"h3")).registration.id == winner


def test_wildcard_covers_one_label_only() -> None:
    snapshot = Snapshot([registration(1, ["*.example.com"], [b"h3"]), registration(2, ["*.b.example.com"], [b"h3"])])
    assert snapshot.select(query("a.b.example.com", b"h3")).registration.id == 2
    assert refusal(snapshot, query("a.b.c.example.com", b"h3")).alert is Alert.UNRECOGNIZED_NAME


def test_specificity_takes_precedence_over_protocol_order() -> None:
    snapshot = Snapshot([registration(1, ["*.example.com"], [b"h3"]), registration(2, ["a.example.com"], [b"smb"])])
    assert snapshot.select(query("a.example.com", b"h3", b"smb")).registration.id == 2


def test_names_match_whatever_their_case_and_trailing_dot() -> None:
    snapshot = Snapshot([registration(1, ["a.example.com"], [b"h3"])])
    assert snapshot.select(query("A.Example.COM.", b"h3")).registration.id == 1


# Rule 3: the client's order of protocols.


@pytest.mark.parametrize(("alpns", "winner"), [((b"h3", b"smb"), 2), ((b"smb", b"h3"), 1), ((b"x", b"smb"), 1)])
def test_client_order_decides_between_equally_specific_registrations(alpns: tuple[bytes, ...], winner: int) -> None:
    snapshot = Snapshot(
        [registration(1, ["quic.example.com"], [b"smb"]), registration(2, ["quic.example.com"], [b"h3"])]
    )
    chosen = snapshot.select(query("quic.example.com", *alpns))
    assert (chosen.registration.id, chosen.alpn) == (winner, b"smb" if winner == 1 else b"h3")


def test_client_order_decides_within_a_registration() -> None:
    snapshot = Snapshot([registration(1, ["a.example.com"], [b"h3", b"hq"])])
    assert snapshot.select(query("a.example.com", b"hq", b"h3")).alpn == b"hq"


# Rule 4: the first credential that the client can verify.


@pytest.mark.parametrize(
    ("schemes", "credential"),
    [
        (None, RSA),
        ((SignatureScheme.ECDSA_SECP256R1_SHA256, SignatureScheme.RSA_PSS_RSAE_SHA256), RSA),
        ((SignatureScheme.ECDSA_SECP256R1_SHA256,), ECDSA),
        ((0x0FFF, SignatureScheme.RSA_PSS_RSAE_SHA512), RSA),
    ],
)
def test_first_credential_that_the_client_can_verify_is_selected(
    schemes: tuple[int, ...] | None, credential: CredentialReference
) -> None:
    snapshot = Snapshot([registration(1, ["a.example.com"], [b"h3"], credentials=(RSA, ECDSA))])
    assert snapshot.select(query("a.example.com", b"h3", signature_schemes=schemes)).credential is credential


def test_no_fitting_credential_is_handshake_failure() -> None:
    snapshot = Snapshot([registration(1, ["a.example.com"], [b"h3"]), registration(2, [], [b"h3"], credentials=(RSA,))])
    rsa_only = query("a.example.com", b"h3", signature_schemes=(SignatureScheme.RSA_PSS_RSAE_SHA256,))
    assert refusal(snapshot, rsa_only).alert is Alert.HANDSHAKE_FAILURE


def test_caller_can_select_the_credential() -> None:
    snapshot = Snapshot([registration(1, ["a.example.com"], [b"h3"], credentials=(RSA, ECDSA))])
    assert snapshot.select(query("a.example.com", b"h3", credential=ECDSA.leaf_digest)).credential is ECDSA
    assert refusal(snapshot, query("a.example.com", b"h3", credential=bytes(32))).alert is Alert.HANDSHAKE_FAILURE


def test_caller_can_limit_registrations_and_protocols() -> None:
    snapshot = Snapshot([registration(1, ["a.example.com"], [b"h3", b"hq"]), registration(2, [], [b"h3"])])
    assert snapshot.select(query("a.example.com", b"h3", registration="r2")).registration.id == 2
    assert snapshot.select(query("a.example.com", b"h3", b"hq", served_alpns=(b"hq",))).alpn == b"hq"
    assert refusal(snapshot, query("a.example.com", b"h3", registration="r3")).alert is Alert.UNRECOGNIZED_NAME


# Alerts.


@pytest.mark.parametrize(
    ("name", "alpns", "alert"),
    [
        ("unknown.example.com", (b"h3",), Alert.UNRECOGNIZED_NAME),
        ("unknown.example.com", (), Alert.UNRECOGNIZED_NAME),
        ("a.example.com", (b"smb",), Alert.NO_APPLICATION_PROTOCOL),
        ("a.example.com", (), Alert.NO_APPLICATION_PROTOCOL),
        ("b.w.example.com", (b"smb",), Alert.NO_APPLICATION_PROTOCOL),
        (None, (b"h3",), Alert.MISSING_EXTENSION),
    ],
)
def test_alert_tells_the_client_what_is_missing(name: str | None, alpns: tuple[bytes, ...], alert: Alert) -> None:
    snapshot = Snapshot([registration(1, ["a.example.com", "*.w.example.com"], [b"h3"])])
    assert refusal(snapshot, query(name, *alpns)).alert is alert


def test_client_without_a_name_matches_only_registrations_without_names() -> None:
    snapshot = Snapshot([registration(1, ["a.example.com"], [b"h3"]), registration(2, [], [b"smb"])])
    assert snapshot.select(query(None, b"smb")).registration.id == 2
    assert refusal(snapshot, query(None, b"h3")).alert is Alert.NO_APPLICATION_PROTOCOL


def test_refusal_shows_protocols_escaped() -> None:
    snapshot = Snapshot([registration(1, [], [b"h3"])])
    assert r"\x0a" in refusal(snapshot, query("a.example.com", b"\n")).reason


# Comparison with a naive implementation.

NAMES = ("example.com", "a.example.com", "b.example.com", "a.b.example.com", "localhost")
PATTERNS = (*NAMES, "*.example.com", "*.b.example.com")
ALPNS = (b"h3", b"hq", b"smb")
CALLERS = (Caller(0), Caller(1000, frozenset({1000})), Caller(2000, frozenset({2000, 50})), Caller(3000), KERNEL)
CREDENTIALS = tuple(
    CredentialReference(number, kind, bytes([number]) * 32)
    for number, kind in enumerate((KeyType.RSA, KeyType.ECDSA_P256, KeyType.ED25519))
)
SCHEMES = tuple(scheme for credential in CREDENTIALS for scheme in credential.key_type.schemes)


@st.composite
def registrations(draw: st.DrawFn) -> list[Registration]:
    """Registrations that do not overlap, which the registry guarantees."""
    taken: set[tuple[str | None, bytes]] = set()
    found: list[Registration] = []
    for identity in range(draw(st.integers(0, 6))):
        one = registration(
            identity,
            draw(st.lists(st.sampled_from(PATTERNS), max_size=3, unique=True)),
            draw(st.lists(st.sampled_from(ALPNS), min_size=1, max_size=3, unique=True)),
            credentials=tuple(draw(st.lists(st.sampled_from(CREDENTIALS), min_size=1, unique=True))),
            owner=draw(st.sampled_from((0, 1000, 2000))),
            access=draw(
                st.builds(
                    Access,
                    st.frozensets(st.sampled_from((1000, 3000))),
                    st.frozensets(st.sampled_from((50, 1000))),
                    st.booleans(),
                )
            ),
        )
        if taken.isdisjoint(one.pairs):
            taken.update(one.pairs)
            found.append(one)
    return found


QUERIES = st.builds(
    Query,
    caller=st.sampled_from(CALLERS),
    server_name=st.none() | st.sampled_from((*NAMES, "x.example.com", "x.b.example.com", "A.EXAMPLE.com.")),
    alpns=st.lists(st.sampled_from((*ALPNS, b"other")), max_size=3, unique=True).map(tuple),
    signature_schemes=st.none() | st.lists(st.sampled_from(SCHEMES), max_size=4).map(tuple),
    served_alpns=st.lists(st.sampled_from(ALPNS), max_size=2, unique=True).map(tuple),
    registration=st.none() | st.sampled_from(("r0", "r1", "r2")),
    credential=st.none() | st.sampled_from([credential.leaf_digest for credential in CREDENTIALS]),
)


def specificity(pattern: str | None, name: str | None) -> int:
    """Return how well a name matches: 0 if it does not, more for a better match."""
    if pattern is None:
        return 1
    if name is None:
        return 0
    name = name.lower().rstrip(".")
    if pattern == name:
        return 3
    first, _, rest = name.partition(".")
    return 2 if first and rest and pattern == f"*.{rest}" else 0


def naive_select(known: list[Registration], asked: Query) -> Selection | Alert:
    """Apply the rules one after the other to all registrations."""
    usable = [
        one for one in known if one.allows(asked.caller) and asked.registration in (None, one.name)
    ]  # fmt: skip
    served = [
        (specificity(pattern, asked.server_name), one) for one in usable for pattern in one.server_names or (None,)
    ]
    served = [(level, one) for level, one in served if level]
    candidates = [
        (-level, asked.alpns.index(alpn), one, alpn)
        for level, one in served
        for alpn in asked.alpns
        if alpn in one.alpns and (not asked.served_alpns or alpn in asked.served_alpns)
    ]
    if not candidates:
        if served:
            return Alert.NO_APPLICATION_PROTOCOL
        return Alert.MISSING_EXTENSION if asked.server_name is None else Alert.UNRECOGNIZED_NAME
    _, _, winner, alpn = min(candidates, key=lambda candidate: candidate[:2])
    for credential in winner.credentials:
        fits = asked.signature_schemes is None or set(credential.key_type.schemes) & set(asked.signature_schemes)
        if fits and asked.credential in (None, credential.leaf_digest):
            return Selection(winner, alpn, credential)
    return Alert.HANDSHAKE_FAILURE


def answer(snapshot: Snapshot, asked: Query) -> Selection | Alert:
    try:
        return snapshot.select(asked)
    except HandshakeError as error:
        return error.alert


@given(registrations(), QUERIES)
def test_select_agrees_with_the_naive_rules(known: list[Registration], asked: Query) -> None:
    assert answer(Snapshot(known), asked) == naive_select(known, asked)


@given(registrations(), QUERIES)
def test_explain_agrees_with_select(known: list[Registration], asked: Query) -> None:
    snapshot = Snapshot(known)
    told, verdicts = snapshot.explain(asked)
    chosen = [verdict.registration for verdict in verdicts if verdict.chosen]
    if isinstance(told, Selection):
        assert answer(snapshot, asked) == told
        assert chosen == [told.registration]
    else:
        assert answer(snapshot, asked) is told.alert
        assert chosen == []
    matching = [(one, name) for one in known for name in one.server_names or (None,)]
    expected = {(one.name, name) for one, name in matching if specificity(name, asked.server_name)}
    assert {(verdict.registration.name, verdict.matched_name) for verdict in verdicts} == expected
    assert all(verdict.reason for verdict in verdicts)


@given(registrations(), registrations(), st.sets(st.integers(0, 5)), QUERIES)
def test_changed_snapshot_equals_a_new_one_and_leaves_the_old_one_unchanged(
    before: list[Registration], after: list[Registration], removed: set[int], asked: Query
) -> None:
    old = Snapshot(before, generation=1)
    seen, names = answer(old, asked), [one.name for one in old.registrations]
    # Added registrations must not overlap with those that stay, which the registry guarantees.
    kept = [one for one in before if one.id not in removed]
    joining = [one for one in after if all(set(one.pairs).isdisjoint(o.pairs) for o in kept if o.id != one.id)]
    expected = {one.id: one for one in kept} | {one.id: one for one in joining}

    new = old.with_changes(joining, removed - {one.id for one in joining}, generation=2)

    assert answer(new, asked) == answer(Snapshot(expected.values()), asked)
    assert (len(new), new.generation) == (len(expected), 2)
    assert {one.name for one in new.registrations} == {one.name for one in expected.values()}
    assert (answer(old, asked), old.generation) == (seen, 1)
    assert [one.name for one in old.registrations] == names


# Explanations.


def reasons(snapshot: Snapshot, asked: Query) -> dict[tuple[str, str | None], str]:
    return {(one.registration.name, one.matched_name): one.reason for one in snapshot.explain(asked)[1]}


def test_explain_says_why_each_registration_was_not_selected() -> None:
    snapshot = Snapshot(
        [
            registration(1, ["a.example.com"], [b"h3"]),
            registration(2, ["*.example.com"], [b"h3"]),
            registration(3, ["a.example.com"], [b"smb"]),
            registration(4, ["a.example.com"], [b"hq"], owner=2000),
            registration(5, [], [b"hq"]),
        ]
    )
    assert reasons(snapshot, query("a.example.com", b"h3", b"smb")) == {
        ("r1", "a.example.com"): "chosen",
        ("r2", "*.example.com"): "its name *.example.com is less specific than that of 'r1'",
        ("r3", "a.example.com"): "the client prefers ALPN h3 to smb",
        ("r4", "a.example.com"): "uid 1000 may not use it",
        ("r5", None): "shares no ALPN with the client",
    }


def test_explain_shows_the_winning_name_of_a_registration_with_two_matching_names() -> None:
    snapshot = Snapshot(
        [
            registration(1, ["a.example.com", "*.example.com"], [b"h3"]),
            registration(2, ["*.example.com"], [b"smb"]),
        ]
    )
    told = reasons(snapshot, query("a.example.com", b"h3", b"smb"))
    assert told["r2", "*.example.com"] == "its name *.example.com is less specific than that of 'r1'"
