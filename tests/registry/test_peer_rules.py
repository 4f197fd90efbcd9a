"""Rules on peers: their syntax, what they match, and what they decide."""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import Alert, PeerError, RefusedError
from handshaked.registry.peer_rules import PeerRules, parse_rule
from handshaked.testing.authority import Authority, Issued


@pytest.fixture(scope="module")
def peer(authority: Authority) -> Issued:
    return authority.issue("one.nodes.example", "192.0.2.7", client=True, file_name="ruled")


def der(issued: Issued) -> bytes:
    return issued.leaf.public_bytes(Encoding.DER)


def tags(peer: Issued, *rules: str) -> tuple[str, ...] | None:
    """Return the peer's tags, or None if it is denied."""
    try:
        return PeerRules(rules).authorise(der(peer))
    except PeerError as error:
        if error.alert is Alert.ACCESS_DENIED:
            return None
        raise


@pytest.mark.parametrize(
    "condition",
    [
        "san=dns:one.nodes.example",
        "san=dns:*.NODES.example",
        "san=ip:192.0.2.7",
        "subject=CN=one.nodes.example",
        "subject=*one*",
        "subject=CN=[no]ne.nodes.example",
        "'issuer=CN=handshaked test CA'",
        "eku=clientAuth",
        "eku=1.3.6.1.5.5.7.3.2",
        "eku=clientauth san=dns:?ne.*",
    ],
)
def test_matching_condition_allows(peer: Issued, condition: str) -> None:
    assert tags(peer, f"allow {condition} tag=a") == ("a",)
    assert tags(peer, f"deny {condition}") is None
    assert tags(peer, f"tag {condition} tag=a") == ("a",)


@pytest.mark.parametrize(
    "condition",
    [
        "san=dns:nodes.example",
        "san=one.nodes.example",
        "san=ip:192.0.2.70",
        "san=email:*",
        "subject=one.nodes.example",
        "eku=serverAuth",
        "eku=clientAuth san=dns:two.*",
        f"fingerprint={'00' * 32}",
    ],
)
def test_other_condition_does_not_allow(peer: Issued, condition: str) -> None:
    assert tags(peer, f"allow {condition}") is None
    assert tags(peer, f"deny {condition}") == ()
    assert tags(peer, f"tag {condition} tag=a") == ()


def test_fingerprint_matches_with_and_without_colons(peer: Issued) -> None:
    digest = peer.leaf.fingerprint(hashes.SHA256()).hex().upper()
    assert tags(peer, f"allow fingerprint={digest}") == ()
    assert tags(peer, f"allow fingerprint={':'.join(digest[at : at + 2] for at in range(0, 64, 2))}") == ()
    assert tags(peer, f"allow fingerprint={digest[2:]}") is None


def test_first_rule_that_holds_decides(peer: Issued) -> None:
    assert tags(peer, "deny san=dns:one.*", "allow san=dns:*") is None
    assert tags(peer, "allow san=dns:one.* tag=first", "deny san=dns:*", "tag eku=clientAuth tag=late") == ("first",)
    assert tags(peer, "tag eku=clientAuth tag=a tag=b", "tag san=ip:* tag=a", "allow tag=c") == ("a", "b", "c")
    assert tags(peer, "deny san=dns:two.*", "tag eku=* tag=a") == ("a",), "without an allow everybody is"
    assert tags(peer, "tag eku=* tag=a", "allow san=dns:two.*") is None, "with one nobody else is"


def test_without_rules_every_peer_is_allowed() -> None:
    assert PeerRules().authorise(b"not even a certificate") == ()
    assert not PeerRules()
    assert not PeerRules(("deny san=dns:x",)).demand
    assert PeerRules(("deny san=dns:x", "allow san=dns:y")).demand


def test_malformed_certificate_is_refused() -> None:
    with pytest.raises(PeerError) as raised:
        PeerRules(("deny san=dns:x",)).authorise(b"\x30\x00")
    assert raised.value.alert is Alert.BAD_CERTIFICATE


@pytest.mark.parametrize(
    ("rule", "refusal"),
    [
        ("", "begins with ''; use one of allow, deny, tag"),
        ("permit san=dns:x", "begins with 'permit'; use one of allow, deny, tag"),
        ("allow dns:x", "'dns:x' is not one of subject="),
        ("allow name=x", "'name=x' is not one of subject="),
        ("allow san=", "'san=' is not one of subject="),
        ("allow 'san=dns:x", "No closing quotation"),
        ("tag san=dns:x", "gives no tag"),
        ("allow tag=two words", "'words' is not one of"),
        ("allow 'tag=two words'", "use at most 127 letters"),
        (f"allow san={'x' * 3000}", "at most 2048 characters"),
    ],
)
def test_invalid_rule_is_refused_with_a_hint(rule: str, refusal: str) -> None:
    with pytest.raises(RefusedError, match=refusal):
        parse_rule(rule)


@given(st.text(max_size=60) | st.text(alphabet="alowdenytg sn=:*?[]'\"\\#dp", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except RefusedError:
        return
    assert rule.verb in ("allow", "deny", "tag")
