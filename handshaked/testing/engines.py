"""Engines whose credentials sign at once, for tests and benchmarks of the engine alone."""

from handshaked.events import Event
from handshaked.model import Level
from handshaked.session.signing import signed
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ServerParameters
from handshaked.tls.server import ServerHandshake


class SigningClient(ClientHandshake):
    """A client that never waits for a signature."""

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        """As in Machine."""
        return signed(super().receive(level, data, now), self.proceed_with_signature)


class SigningServer(ServerHandshake):
    """A server that never waits for a signature."""

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        """As in Machine."""
        return signed(super().receive(level, data, now), self.proceed_with_signature)

    def proceed(self, parameters: ServerParameters, now: float) -> list[Event]:
        """As in ServerHandshake."""
        return signed(super().proceed(parameters, now), self.proceed_with_signature)
