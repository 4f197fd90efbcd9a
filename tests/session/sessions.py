"""A client session and a server session in memory, for the tests of sessions."""

import time
from collections.abc import Callable

from handshaked.events import (
    CryptoData,
    Event,
    HandshakeFailed,
    TrafficSecret,
)
from handshaked.model import Direction, KeyType, Level, Role
from handshaked.session.registered import Session
from tests.registered import Registered
from tests.tls.pair import PSS_KEYS

NAME = "a.example.com"
CLIENT_PARAMETERS, SERVER_PARAMETERS = b"client's", b"server's"
NOW = time.time()
# `cryptography` cannot generate RSA-PSS keys.
KEY_TYPES = [key_type for key_type in KeyType if key_type not in PSS_KEYS]


def client(registered: Registered, **request: object) -> Session:
    asked = {
        "server_name": NAME,
        "alpns": (b"h3",),
        "transport_parameters": CLIENT_PARAMETERS,
        **request,
    }
    return registered.session(Role.CLIENT, **asked)


def server(registered: Registered, **request: object) -> Session:
    return registered.session(Role.SERVER, **{"transport_parameters": SERVER_PARAMETERS, **request})


def flight(events: list[Event]) -> list[CryptoData]:
    return [event for event in events if isinstance(event, CryptoData)]


def whole(data: CryptoData) -> list[bytes]:
    return [data.data]


def byte_by_byte(data: CryptoData) -> list[bytes]:
    return [bytes([byte]) for byte in data.data]


def run(
    ours: Session, theirs: Session, cut: Callable[[CryptoData], list[bytes]] = whole
) -> tuple[list[Event], list[Event]]:
    """Run a client and a server until neither has anything to send, and return their events."""
    events: tuple[list[Event], list[Event]] = (ours.start(NOW), theirs.start(NOW))
    said = [flight(events[0]), flight(events[1])]
    while said[0] or said[1]:
        for me, session in ((1, theirs), (0, ours)):
            heard, said[1 - me] = said[1 - me], []
            for data in heard:
                for piece in cut(data):
                    found = session.receive(data.level, piece, NOW)
                    events[me].extend(found)
                    said[me] += flight(found)
    return events


def kinds(events: list[Event]) -> list[object]:
    """Return short descriptions of `events`."""
    found: list[object] = []
    for event in events:
        if isinstance(event, TrafficSecret):
            found.append((event.level, event.direction))
        elif isinstance(event, CryptoData):
            found.append(event.level)
        else:
            found.append(type(event))
    return found


def failure(events: list[Event]) -> HandshakeFailed:
    assert isinstance(events[-1], HandshakeFailed), kinds(events)
    assert sum(isinstance(event, HandshakeFailed) for event in events) == 1
    return events[-1]


def secrets(events: list[Event]) -> dict[tuple[Level, Direction], bytes]:
    return {(event.level, event.direction): event.secret for event in events if isinstance(event, TrafficSecret)}
