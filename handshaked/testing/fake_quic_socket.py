"""A fake of the kernel's QUIC socket as an agent sees it: its options, levels, errors, and checks of their order."""

from collections import deque
from typing import Protocol

from handshaked.datapath.quic_options import (
    MAX_ALPN,
    MAX_SESSION_TICKET,
    MIN_SESSION_TICKET,
    Config,
    ConnectionClose,
    Option,
    pull_alpns,
    pull_connection_close,
    pull_crypto_secret,
    push_config,
    push_connection_close,
    push_level,
)
from handshaked.errors import Status
from handshaked.events import TrafficSecret
from handshaked.model import Direction, Level, Role
from handshaked.tls.codepoints import HandshakeType

_FRAME = 1200


class Transport(Protocol):
    """The QUIC packet layer below a socket."""

    def agree(self, peer_parameters: bytes, alpn: bytes) -> bytes:
        """Pass on the peer's transport parameters and the server's ALPN. Return the own transport parameters."""
        ...

    def install(self, secret: TrafficSecret) -> None:
        """Protect packets with `secret`."""
        ...

    def transmit(self, level: Level, data: bytes) -> None:
        """Send CRYPTO data."""
        ...

    def go_on(self, *, established: bool) -> None:
        """Continue: the agent has handled everything received so far."""
        ...


class SocketError(Exception):
    """A call failed with the errno ``status``."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class FakeQuicSocket:
    """Implements an agent's calls. ``calls`` records them in order, ``refused`` those that failed with their errno.

    Frames of a message after its first one are recorded as ``...``.
    """

    def __init__(
        self,
        role: Role,
        transport: Transport,
        *,
        alpns: bytes = b"",
        session_ticket: bytes = b"",
        config: Config | None = None,
        own_parameters: bytes | None = None,
    ) -> None:
        self.calls: list[str] = []
        self.refused: list[tuple[str, int]] = []
        self.alpn = alpns
        self.session_ticket = session_ticket
        self.connection_close = ConnectionClose()
        self.established = False
        self.closed = False
        self._role = role
        self._transport = transport
        self._config = config or Config()
        self._own_parameters = own_parameters
        self._peer_parameters: bytes | None = None
        self._secrets: set[tuple[Level, Direction]] = set()
        self._chunks: deque[tuple[Level, str, bytes]] = deque()
        self._left: dict[Level, int] = {}
        self._flight: list[tuple[Level, bytes]] = []

    def queue(self, level: Level, data: bytes) -> None:
        """Queue the peer's CRYPTO data, split into frames that belong to one message each."""
        while data:
            left = self._left.get(level, 0)
            name = "..." if left else _message_name(data)
            if not left and len(data) >= 4:
                left = 4 + int.from_bytes(data[1:4])
            size = min(left or len(data), _FRAME, len(data))
            self._left[level] = max(left - size, 0)
            self._chunks.append((level, name, data[:size]))
            data = data[size:]

    def get(self, option: int) -> bytes:
        """Handle getsockopt(2)."""
        self._note(f"get {_name(option)}")
        if option == Option.ALPN:
            return self.alpn
        if option == Option.SESSION_TICKET:
            return self.session_ticket
        if option == Option.CONFIG:
            return push_config(self._config)
        if option == Option.CONNECTION_CLOSE:
            return push_connection_close(self.connection_close)
        if option == Option.TOKEN and self._role is Role.CLIENT:
            return b""
        if option == Option.TRANSPORT_PARAM_EXT and not self.established:
            return self._parameters()
        raise SocketError(Status.INVALID)

    def set(self, option: int, value: bytes) -> None:
        """Handle setsockopt(2)."""
        if option == Option.CRYPTO_SECRET:
            self._install(value)
            return
        self._note(f"set {_name(option)}")
        if option == Option.ALPN:
            self._check(len(value) <= MAX_ALPN and len(pull_alpns(value)) == 1)
            self.alpn = value
        elif option == Option.SESSION_TICKET:
            self._check(MIN_SESSION_TICKET <= len(value) <= MAX_SESSION_TICKET)
            self.session_ticket = value
        elif option == Option.TRANSPORT_PARAM_EXT:
            self._check(not self.established and self._peer_parameters is None)
            self._check(self._role is Role.SERVER or (Level.HANDSHAKE, Direction.RECEIVE) in self._secrets)
            self._peer_parameters = value
            if self._role is Role.CLIENT:
                self._transport.agree(value, self.alpn)
        elif option == Option.CONNECTION_CLOSE:
            close = pull_connection_close(value)
            self._check(close is not None)
            self.connection_close = close or self.connection_close
        else:
            raise SocketError(Status.INVALID)

    def send(self, level: Level | None, message: bytes, *, more: bool) -> None:
        """Handle sendmsg(2)."""
        self._note(f"send {_level_name(level)} {_message_name(message)}{' more' if more else ''}")
        if self.closed:
            raise SocketError(Status.BROKEN_PIPE)
        self._check(len(message) >= 4 and 4 + int.from_bytes(message[1:4]) == len(message))
        if level is None or level is Level.EARLY:
            raise SocketError(Status.INVALID)
        self._check(level is Level.INITIAL or (level, Direction.SEND) in self._secrets)
        self._check(level is not Level.APPLICATION or self.established)
        self._flight.append((level, message))
        if more:
            return
        for one in self._flight:
            self._transport.transmit(*one)
        self._flight.clear()
        if self.established or self._role is Role.CLIENT:
            self._transport.go_on(established=self.established)

    def receive(self) -> bytes:
        """Handle recvmsg(2). Return the level followed by the data."""
        if not self._chunks:
            self._note("receive")
            if self.closed:
                raise SocketError(Status.NOT_CONNECTED)
            self._transport.go_on(established=False)
            raise SocketError(Status.WOULD_BLOCK)
        level, name, data = self._chunks.popleft()
        self._note(f"receive {level.name} {name}")
        return push_level(level) + data

    def note_refusal(self, error: SocketError) -> None:
        """Record that the last call failed."""
        self.refused.append((self.calls[-1], error.status))

    def _install(self, value: bytes) -> None:
        secret = pull_crypto_secret(value)
        if secret is None:
            self._note("set CRYPTO_SECRET ?")
            raise SocketError(Status.INVALID)
        self._note(f"set CRYPTO_SECRET {secret.level.name} {secret.direction.name}")
        level, direction = secret.level, secret.direction
        self._check(level is not Level.INITIAL and not self.established and not self.closed)
        self._check((level, direction) not in self._secrets)
        if level is Level.APPLICATION:
            self._check((Level.HANDSHAKE, direction) in self._secrets and self._peer_parameters is not None)
        self._secrets.add((level, direction))
        self._transport.install(secret)
        self.established = {(Level.APPLICATION, one) for one in Direction} <= self._secrets
        if self.established and self._role is Role.SERVER:
            self._transport.go_on(established=True)

    def _parameters(self) -> bytes:
        if self._own_parameters is None:
            self._check(self._peer_parameters is not None)
            self._own_parameters = self._transport.agree(self._peer_parameters or b"", self.alpn)
        return self._own_parameters

    def _note(self, call: str) -> None:
        self.calls.append(call)

    def _check(self, condition: bool) -> None:
        if not condition:
            raise SocketError(Status.INVALID)


def _name(option: int) -> str:
    try:
        return Option(option).name
    except ValueError:
        return str(option)


def _level_name(level: Level | None) -> str:
    return "?" if level is None else level.name


def _message_name(data: bytes) -> str:
    try:
        return HandshakeType(data[0]).name
    except (ValueError, IndexError):
        return "?"
