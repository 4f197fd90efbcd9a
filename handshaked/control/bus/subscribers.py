"""Who on the bus is told of handshakes, and how often: each as it asked, a limited number of times a second."""

import asyncio
from collections.abc import Callable

from handshaked.control.event_broker import Event, EventBroker, Filter, Subscription
from handshaked.errors import RefusedError
from handshaked.model import Caller

MAX_SUBSCRIBERS = 32
SIGNALS_A_SECOND = 50

Tell = Callable[[str, Event, int], None]


class BusSubscribers:
    """Subscribers by their names on the bus. `tell` is given a name, a handshake that has ended, and how many were left
    out since the one before.
    """

    def __init__(self, broker: EventBroker, tell: Tell) -> None:
        self._broker = broker
        self._tell = tell
        self._ends: dict[str, Callable[[], object]] = {}

    def add(self, name: str, caller: Caller, wanted: Filter) -> None:
        """Have `name`, who is `caller`, told of what it may see and wants; instead of what it wanted before."""
        self.remove(name)
        if len(self._ends) >= MAX_SUBSCRIBERS:
            raise RefusedError(f"there are {MAX_SUBSCRIBERS} subscribers already")
        limited = _Limited(lambda event, left_out: self._tell(name, event, left_out))
        self._ends[name] = self._broker.subscribe(Subscription(caller, wanted, limited.deliver))

    def remove(self, name: str) -> None:
        """Tell `name` nothing any more."""
        end = self._ends.pop(name, None)
        if end is not None:
            end()

    def clear(self) -> None:
        """Tell nobody anything any more."""
        for name in list(self._ends):
            self.remove(name)


class _Limited:
    """Calls `tell` a limited number of times a second, with what was left out in between."""

    def __init__(self, tell: Callable[[Event, int], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._tokens = float(SIGNALS_A_SECOND)
        self._filled = self._loop.time()
        self._left_out = 0

    def deliver(self, events: list[Event]) -> None:
        """Tell of the handshakes among `events`, or of as many as may be told."""
        now = self._loop.time()
        self._tokens = min(SIGNALS_A_SECOND, self._tokens + (now - self._filled) * SIGNALS_A_SECOND)
        self._filled = now
        for event in events:
            if event["type"] != "handshake":
                continue
            if self._tokens < 1:
                self._left_out += 1
                continue
            self._tokens -= 1
            self._tell(event, self._left_out)
            self._left_out = 0
