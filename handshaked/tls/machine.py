"""What server and client have in common: messages in by the table of transitions, a fault once and for all."""

from collections.abc import Callable
from typing import Any, ClassVar

from handshaked.errors import Alert, HandshakeError, LocalError, PeerError
from handshaked.events import Event
from handshaked.model import Level
from handshaked.tls.codepoints import HandshakeType
from handshaked.tls.reassembly import MessageReassembler
from handshaked.tls.state import State, Transitions

Handler = Callable[[Any, bytes, list[Event], float], State]
"""Takes a message, adds events, and names the next state."""

_NAMES = {int(kind): kind.name.lower() for kind in HandshakeType}


class Machine:
    """One side of a handshake. Messages are dispatched to `handlers` by type, if the state's table has that type."""

    handlers: ClassVar[dict[int, Handler]]
    failed: ClassVar[State]

    def __init__(self, state: State, transitions: Transitions) -> None:
        self._state = state
        self._transitions = transitions
        self._reassembler = MessageReassembler(Level.INITIAL)

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        """Take in handshake bytes received at `level` at `now` (Unix seconds); the events they lead to, in order.

        Raises HandshakeError; the handshake is then over, and all that was to come of `data` with it.
        """
        events: list[Event] = []
        reassembler = self._reassembler
        try:
            if self._state is self.failed:
                raise LocalError("the handshake has failed before")
            reassembler.receive(level, data)
            while (kind := reassembler.next_type()) is not None:
                following = self._transitions[self._state].get(kind)
                if following is None:
                    raise self._unexpected(kind)
                message = reassembler.pull()
                if message is None:
                    break
                self._enter(self.handlers[kind](self, message, events, now), following)
        except HandshakeError:
            self._state = self.failed
            raise
        return events

    def _enter(self, state: State, following: tuple[State, ...]) -> None:
        if state not in following:
            raise LocalError(f"no way from {self._state.name} to {state.name}")
        self._state = state

    def _unexpected(self, kind: int) -> PeerError:
        # RFC 8446 section 4: messages out of order are an unexpected_message.
        return PeerError(
            Alert.UNEXPECTED_MESSAGE, f"{_NAMES.get(kind, f'message of type {kind}')} in state: {self._state.value}"
        )
