"""The data path of a userspace endpoint: each event becomes a message on the socket that the request came from."""

from collections.abc import Callable

from handshaked.events import (
    CryptoData,
    Event,
    HandshakeFailed,
    PeerTransportParameters,
    SessionTicket,
    TrafficSecret,
)
from handshaked.model import Outcome
from handshaked.wire.family import (
    push_close,
    push_crypto,
    push_done,
    push_peer_transport_parameters,
    push_secret,
    push_session_ticket,
)
from handshaked.wire.messages import Close


class MessagePath:
    """Sends the events of handshake `sequence` with `send`; calls `on_finish` with `sequence` when it has ended."""

    def __init__(self, sequence: int, send: Callable[[bytes], None], on_finish: Callable[[int], None]) -> None:
        self._sequence = sequence
        self._send = send
        self._on_finish = on_finish

    def deliver(self, events: list[Event]) -> None:
        """Send `events`, in order."""
        for event in events:
            if isinstance(event, CryptoData):
                self._send(push_crypto(self._sequence, event))
            elif isinstance(event, TrafficSecret):
                self._send(push_secret(self._sequence, event))
            elif isinstance(event, PeerTransportParameters):
                self._send(push_peer_transport_parameters(self._sequence, event))
            elif isinstance(event, SessionTicket):
                self._send(push_session_ticket(self._sequence, event))
            elif isinstance(event, HandshakeFailed):
                self._send(push_close(self._sequence, Close(event.quic_error, event.reason)))

    def finish(self, outcome: Outcome) -> None:
        """Send DONE."""
        self._send(push_done(self._sequence, outcome))
        self._on_finish(self._sequence)
