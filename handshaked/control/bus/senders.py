"""The bus names that send calls, and the users they belong to, as the bus attests."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from handshaked.control.bus.interface import CallError
from handshaked.control.bus.messages import Received
from handshaked.errors import HandshakedError
from handshaked.model import Caller
from handshaked.system.tasks import Tasks

MAX_SENDERS = 4096
"""More than a bus has connections by default."""
MAX_WAITING_CALLS = 16
MAX_WAITING_BYTES = 16 * 1024 * 1024


@dataclass(eq=False, slots=True)
class Sender:
    """The owner of the unique bus name ``name``, which the bus never uses again when it is ``gone``."""

    name: str
    caller: Caller | None = None
    gone: bool = False
    waiting: list[Received] = field(default_factory=list)
    size: int = 0
    """Bytes of the calls that are waiting."""


class Senders:
    """Passes each call to `accept` as soon as its caller is known, which `identify` tells by the sender's name.

    Calls that cannot wait until then are passed to `refuse` with the reason: too many of one name, or of the name with
    the most bytes while those of all take too much memory. A name with one small call is not refused for others.
    """

    def __init__(
        self,
        identify: Callable[[str], Awaitable[Caller]],
        accept: Callable[[Received, Sender, Caller], object],
        refuse: Callable[[Received, HandshakedError], object],
    ) -> None:
        self._identify = identify
        self._accept = accept
        self._refuse = refuse
        self._senders: OrderedDict[str, Sender] = OrderedDict()
        self._waiting: set[Sender] = set()
        self._size = 0
        self._tasks = Tasks("the bus")

    def receive(self, call: Received) -> None:
        """Pass `call` on, now or later."""
        sender = self._senders.setdefault(call.sender, Sender(call.sender))
        self._senders.move_to_end(call.sender)
        while len(self._senders) > MAX_SENDERS:
            self.remove(next(iter(self._senders)))
        if sender.caller is not None:
            self._accept(call, sender, sender.caller)
            return
        if len(sender.waiting) >= MAX_WAITING_CALLS:
            self._refuse(call, _TOO_MANY)
            return
        self._wait(sender, call)
        if sender not in self._waiting:
            self._waiting.add(sender)
            self._tasks.start(self._look_up(sender))
        while self._size > MAX_WAITING_BYTES:
            largest = max(self._waiting, key=lambda one: one.size)
            self._refuse(self._take(largest), _TOO_MANY)

    def remove(self, name: str) -> None:
        """Forget the name `name`, which has left the bus."""
        sender = self._senders.pop(name, None)
        if sender is not None:
            sender.gone = True

    def clear(self) -> None:
        """Forget all names: the connection to the bus is lost."""
        for name in list(self._senders):
            self.remove(name)

    async def _look_up(self, sender: Sender) -> None:
        error: HandshakedError = CallError("Failed", "the caller cannot be identified")
        try:
            sender.caller = await self._identify(sender.name)
        except HandshakedError as reason:
            error = reason
        finally:
            self._waiting.discard(sender)
            while sender.waiting:
                call = self._take(sender)
                if sender.caller is None:
                    self._refuse(call, error)
                else:
                    self._accept(call, sender, sender.caller)

    def _wait(self, sender: Sender, call: Received) -> None:
        sender.waiting.append(call)
        sender.size += call.size
        self._size += call.size

    def _take(self, sender: Sender) -> Received:
        """Return the first call of `sender` that waits; it no longer waits."""
        call = sender.waiting.pop(0)
        sender.size -= call.size
        self._size -= call.size
        return call


_TOO_MANY = CallError("LimitsExceeded", "too many calls at once; try again later")
