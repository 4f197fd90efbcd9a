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


def test_a_ticket_comes_back() -> None:
    assert pull_ticket(sealed(), ONE, b"binding", NOW) == CONTENT


def test_no_two_tickets_are_alike() -> None:
    assert sealed() != sealed()


def test_another_binding() -> None:
    assert pull_ticket(sealed(), ONE, b"other", NOW) is None


def test_a_changed_bit_anywhere() -> None:
    ticket = sealed()
    for at in range(len(ticket)):
        changed = ticket[:at] + bytes([ticket[at] ^ 1]) + ticket[at + 1 :]
        assert pull_ticket(changed, ONE, b"binding", NOW) is None


@pytest.mark.parametrize("size", [0, 1, 16, 28, 44, 60, 100])
def test_a_short_ticket(size: int) -> None:
    assert pull_ticket(sealed()[:size], ONE, b"binding", NOW) is None


@pytest.mark.parametrize(("later", "good"), [(-59, True), (-61, False), (3600, True), (3601, False)])
def test_age(later: float, good: bool) -> None:
    assert (pull_ticket(sealed(), ONE, b"binding", NOW + later) is not None) is good


def test_the_newest_key_whose_time_has_come_seals() -> None:
    both = keys((NOW + 60, SECOND), (NOW - DAY, FIRST))
    first, second = both.sealing(NOW), both.sealing(NOW + 60)
    assert first is not None
    assert second is not None
    assert first.identifier != second.identifier
    assert both.opening(first.identifier, NOW + 60) is first
    assert both.opening(second.identifier, NOW) is second


def test_no_key_before_its_time_and_none_too_old() -> None:
    early = keys((NOW + 1, FIRST))
    assert early.sealing(NOW) is None
    late = keys((NOW - 8 * DAY - 1, FIRST))
    assert late.sealing(NOW) is None
    identifier = keys((NOW, FIRST)).sealing(NOW)
    assert identifier is not None
    assert late.opening(identifier.identifier, NOW) is None


def test_no_keys() -> None:
    assert keys().sealing(NOW) is None
    assert pull_ticket(sealed(), keys(), b"binding", NOW) is None


def test_a_short_secret() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        keys((NOW, bytes(31)))


def test_secrets_show_in_no_repr() -> None:
    assert "psk" not in repr(CONTENT)
    assert repr(FIRST)[2:-1] not in repr(ONE.sealing(NOW))


STATE = ResumptionState(
    CipherSuite.AES_128_GCM_SHA256, True, 1, 2, 3, 4, 5, b"p" * 32, b"a.test", b"h3", b"the ticket of the server"
)


def test_the_state_of_a_client_comes_back() -> None:
    assert pull_resumption(push_resumption(STATE)) == STATE


def test_a_state_cut_short_or_prolonged() -> None:
    data = push_resumption(STATE)
    for size in range(len(data)):
        assert pull_resumption(data[:size]) is None
    assert pull_resumption(data + b"x") is None
