"""Damaged handshake messages: they are refused, and never complete a handshake on both sides."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from handshaked.errors import Alert, Status
from handshaked.events import (
    CryptoData,
    HandshakeComplete,
    HandshakeFailed,
)
from handshaked.model import Direction, Level
from tests.registered import Registered
from tests.session.sessions import (
    NOW,
    client,
    flight,
    run,
    secrets,
    server,
)


def damaged(data: bytes, seed: random.Random) -> bytes:
    """Return `data` with some bytes changed, removed or repeated."""
    damage = bytearray(data)
    for _ in range(seed.randrange(1, 4)):
        place = seed.randrange(len(damage))
        what = seed.randrange(4)
        if what == 0:
            damage[place] ^= 1 << seed.randrange(8)
        elif what == 1:
            damage[place] = seed.choice((0, 1, 127, 128, 255))
        elif what == 2:
            del damage[place : place + seed.randrange(1, 8)]
        else:
            damage[place:place] = damage[place : place + seed.randrange(1, 8)]
        if not damage:
            damage = bytearray(b"\0")
    return bytes(damage)


@given(number=st.integers(0, 2**32))
@settings(max_examples=300)
def test_damaged_client_hello_is_answered_or_refused(registered: Registered, number: int) -> None:
    seed = random.Random(number)
    (hello,) = flight(client(registered).start(NOW))
    theirs = server(registered)
    theirs.start(NOW)
    events = theirs.receive(Level.INITIAL, damaged(hello.data, seed), NOW)
    assert not any(isinstance(event, HandshakeComplete) for event in events)
    for event in events:
        if isinstance(event, HandshakeFailed):
            assert event is events[-1]
            assert event.status == Status.REFUSED
            assert event.alert is not Alert.INTERNAL_ERROR


@given(number=st.integers(0, 2**32))
@settings(max_examples=150)
def test_damaged_message_never_completes_a_handshake_on_both_sides(registered: Registered, number: int) -> None:
    seed = random.Random(number)
    victim = seed.randrange(4)  # of the flights: ClientHello, ServerHello, the server's handshake flight, Finished
    count = -1

    def spoil(data: CryptoData) -> list[bytes]:
        nonlocal count
        count += 1
        spoiled = damaged(data.data, seed) if count == victim else data.data
        return [spoiled]

    ours, theirs = run(client(registered), server(registered), spoil)
    complete = [isinstance(events[-1], HandshakeComplete) for events in (ours, theirs) if events]
    same = secrets(theirs) == {(level, Direction(1 - way)): s for (level, way), s in secrets(ours).items()}
    assert not all(complete) or same
    for event in (*ours, *theirs):
        if isinstance(event, HandshakeFailed):
            assert event.alert is not Alert.INTERNAL_ERROR
