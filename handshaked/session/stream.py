"""A TCP handshake: sessions take bytes of the stream and the time, and return events and bytes for the peer.

No I/O and no clock. Read at most ``needed`` bytes at a time, so that nothing after the peer's Finished is read. Any
error ends a session with HandshakeFailed; its alert is among the bytes for the peer.
"""

from collections.abc import Callable
from dataclasses import replace

from handshaked.errors import HandshakeError
from handshaked.events import Event, HandshakeComplete, HandshakeFailed
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientHello, ClientParameters, ServerParameters
from handshaked.tls.record import RecordLayer
from handshaked.tls.server import ServerHandshake
from handshaked.tls.stream import ApplicationData, ClientStream, PeerClosed, ServerStream, StreamEvent


class StreamSession:
    """A handshake of either role."""

    def __init__(self, stream: ClientStream | ServerStream) -> None:
        self._stream = stream

    @property
    def records(self) -> RecordLayer:
        """The record layer, from which kTLS continues when the handshake is complete."""
        return self._stream.records

    def needed(self) -> int:
        """Return how many bytes may be read now."""
        return self._stream.needed()

    def start(self, now: float) -> list[Event]:
        """Start: a client sends its ClientHello, a server nothing."""
        return []

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Process bytes of the stream, at most ``needed``."""
        return _of_handshake(self._stream.receive(data, now))

    def fail(self, error: HandshakeError) -> HandshakeFailed:
        """End the handshake with the alert of `error`, and return the event."""
        return self._stream.fail(error)

    def pull_outgoing(self) -> bytes:
        """Return the bytes to send and forget them."""
        return self._stream.pull_outgoing()


class ClientStreamSession(StreamSession):
    """A client's handshake."""

    def __init__(self, parameters: ClientParameters) -> None:
        stream = ClientStream(ClientHandshake(parameters, quic=False), parameters.record_size_limit)
        super().__init__(stream)
        self._start = stream.start

    def start(self, now: float) -> list[Event]:
        """As in StreamSession."""
        return _of_handshake(self._start(now))


class ServerStreamSession(StreamSession):
    """A server's handshake: `choose` returns the parameters for a ClientHello, or raises HandshakeError."""

    def __init__(self, choose: Callable[[ClientHello], ServerParameters]) -> None:
        stream = ServerStream(ServerHandshake(quic=False))
        super().__init__(stream)
        self._server_stream = stream
        self._choose = choose
        self._parameters: ServerParameters | None = None

    def receive(self, data: bytes, now: float) -> list[Event]:
        """As in StreamSession."""
        events = super().receive(data, now)
        hello = self._server_stream.client_hello
        if self._parameters is None and hello is not None and not events:
            try:
                self._parameters = self._choose(hello)
            except HandshakeError as error:
                return [self.fail(error)]
            events = _of_handshake(self._server_stream.proceed(self._parameters, now))
        if events and isinstance(events[-1], HandshakeComplete) and self._parameters is not None:
            events[-1] = replace(events[-1], registration=self._parameters.registration)
        return events


def _of_handshake(events: list[StreamEvent]) -> list[Event]:
    """Return `events` without those after a handshake, whose bytes are not read here."""
    return [event for event in events if not isinstance(event, ApplicationData | PeerClosed)]
