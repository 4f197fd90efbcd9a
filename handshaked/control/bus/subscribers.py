"""Bus clients that are sent HandshakeFinished, each with its own filter and rate limit."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from handshaked.control.bus.places import Places
from handshaked.control.event_broker import Event, EventBroker, Filter, Subscription
from handshaked.errors import RefusedError
from handshaked.model import Caller

MAX_SUBSCRIBERS = 48
MAX_SUBSCRIBERS_PER_USER = 4
RESERVED_SUBSCRIBERS = 8
"""Number of ``MAX_SUBSCRIBERS`` that only root and the daemon's user may use."""
SIGNALS_PER_SECOND = 50

Send = Callable[[str, Event, int], None]
"""Sends a handshake that has ended to a bus name, with the number of handshakes dropped since the last one."""


@dataclass(frozen=True, slots=True)
class _Subscriber:
    caller: Caller
    unsubscribe: Callable[[], object]


class BusSubscribers:
    """The subscribers, by unique bus name."""

    def __init__(self, broker: EventBroker, send: Send) -> None:
        self._broker = broker
        self._send = send
        self._subscribers: dict[str, _Subscriber] = {}
        self._places = Places(MAX_SUBSCRIBERS, RESERVED_SUBSCRIBERS, MAX_SUBSCRIBERS_PER_USER)

    def add(self, name: str, caller: Caller, wanted: Filter) -> None:
        """Subscribe `name`, which belongs to `caller`; replace the filter if it has subscribed before."""
        self.remove(name)
        if not self._places.take(caller):
            raise RefusedError(
                f"{caller} has too many subscribers: at most {MAX_SUBSCRIBERS_PER_USER}, fewer while others have many"
            )
        limited = _RateLimited(lambda event, dropped: self._send(name, event, dropped))
        unsubscribe = self._broker.subscribe(Subscription(caller, wanted, limited.deliver))
        self._subscribers[name] = _Subscriber(caller, unsubscribe)

    def remove(self, name: str) -> None:
        """Unsubscribe `name`, if it has subscribed."""
        subscriber = self._subscribers.pop(name, None)
        if subscriber is not None:
            subscriber.unsubscribe()
            self._places.release(subscriber.caller)

    def clear(self) -> None:
        """Unsubscribe everybody."""
        for name in list(self._subscribers):
            self.remove(name)


class _RateLimited:
    """Call `send` at most ``SIGNALS_PER_SECOND`` times a second, with the number of events dropped in between."""

    def __init__(self, send: Callable[[Event, int], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._tokens = float(SIGNALS_PER_SECOND)
        self._filled = self._loop.time()
        self._dropped = 0

    def deliver(self, events: list[Event]) -> None:
        """Send the handshakes among `events`, as many as the limit allows."""
        now = self._loop.time()
        self._tokens = min(SIGNALS_PER_SECOND, self._tokens + (now - self._filled) * SIGNALS_PER_SECOND)
        self._filled = now
        for event in events:
            if event["type"] != "handshake":
                continue
            if self._tokens < 1:
                self._dropped += 1
                continue
            self._tokens -= 1
            self._send(event, self._dropped)
            self._dropped = 0
