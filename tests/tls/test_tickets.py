"""Sealing and opening session tickets, and the rotation of their keys."""

import pytest

from handshaked.model import CipherSuite
from handshaked.tls.resumption import ResumptionState, pull_resumption, push_resumption
from handshaked.tls.tickets import RotatingTicketKeys, TicketContent, pull_ticket, push_ticket

DAY = 24 * 3600.0
NOW = 1_800_000_000.0
FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))
CONTENT = TicketContent(
    CipherSuite.AES_256_GCM_SHA384,
    bytes(48),
    int(NOW * 1000),
    3600,
    12345,
    max_early_data=100,
    early_context=b"c" * 32,
    chain=(b"leaf", b"issuer"),
)


def keys(*secrets: tuple[float, bytes]) -> RotatingTicketKeys:
    return RotatingTicketKeys(secrets, rotation=DAY)


ONE = keys((NOW - 10, FIRST))


def sealed(content: TicketContent = CONTENT, binding: bytes = b"binding") -> bytes:
    key = ONE.sealing(NOW)
    assert key is not None
    return push_ticket(content, key, binding)


def test_sealed_ticket_opens() -> None:
    assert pull_ticket(sealed(), ONE, b"binding", NOW) == CONTENT


def test_tickets_differ() -> None:
    assert sealed() != sealed()


def test_ticket_does_not_open_with_another_binding() -> None:
    assert pull_ticket(sealed(), ONE, b"other", NOW) is None


def test_altered_ticket_does_not_open() -> None:
    ticket = sealed()
    for at in range(len(ticket)):
        changed = ticket[:at] + bytes([ticket[at] ^ 1]) + ticket[at + 1 :]
        assert pull_ticket(changed, ONE, b"binding", NOW) is None


@pytest.mark.parametrize("size", [0, 1, 16, 28, 44, 60, 100])
def test_truncated_ticket_does_not_open(size: int) -> None:
    assert pull_ticket(sealed()[:size], ONE, b"binding", NOW) is None


@pytest.mark.parametrize(("later", "good"), [(-59, True), (-61, False), (3600, True), (3601, False)])
def test_ticket_opens_during_its_lifetime_only(later: float, good: bool) -> None:
    assert (pull_ticket(sealed(), ONE, b"binding", NOW + later) is not None) is good


def test_newest_current_key_seals() -> None:
    both = keys((NOW + 60, SECOND), (NOW - DAY, FIRST))
    first, second = both.sealing(NOW), both.sealing(NOW + 60)
    assert first is not None
    assert second is not None
    assert first.identifier != second.identifier
    assert both.opening(first.identifier, NOW + 60) is first
    assert both.opening(second.identifier, NOW) is second


def test_keys_are_not_used_too_early_or_too_late() -> None:
    early = keys((NOW + 1, FIRST))
    assert early.sealing(NOW) is None
    late = keys((NOW - 8 * DAY - 1, FIRST))
    assert late.sealing(NOW) is None
    identifier = keys((NOW, FIRST)).sealing(NOW)
    assert identifier is not None
    assert late.opening(identifier.identifier, NOW) is None


def test_nothing_seals_or_opens_without_keys() -> None:
    assert keys().sealing(NOW) is None
    assert pull_ticket(sealed(), keys(), b"binding", NOW) is None


def test_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        keys((NOW, bytes(31)))


def test_reprs_omit_secrets() -> None:
    assert "psk" not in repr(CONTENT)
    assert repr(FIRST)[2:-1] not in repr(ONE.sealing(NOW))


STATE = ResumptionState(
    CipherSuite.AES_128_GCM_SHA256, bytes(32), 1, 2, 3, 4, 5, b"p" * 32, b"a.test", b"h3", b"the ticket of the server"
)


def test_encoded_client_state_decodes() -> None:
    assert pull_resumption(push_resumption(STATE)) == STATE


def test_truncated_or_extended_client_state_is_refused() -> None:
    data = push_resumption(STATE)
    for size in range(len(data)):
        assert pull_resumption(data[:size]) is None
    assert pull_resumption(data + b"x") is None
