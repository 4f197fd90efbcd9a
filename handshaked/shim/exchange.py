"""Parts that the clients of the handshake socket share: message types, time limits, translation of daemon messages."""

from handshaked.errors import Status
from handshaked.events import CryptoData, PeerTransportParameters, SessionTicket, TrafficSecret
from handshaked.model import Direction, Level, Outcome, Role
from handshaked.wire.family import push_start
from handshaked.wire.messages import (
    MAX_PACKET,
    Acknowledged,
    Close,
    Done,
    FromDaemon,
    LookupAnswer,
    Malformed,
    Refused,
    Start,
)

Message = CryptoData | TrafficSecret | PeerTransportParameters | Done | SessionTicket | Close
"""The events that a caller gets for a handshake. ``handshaked.events`` documents the order."""

DEFAULT_TIMEOUT = 8.0
"""The daemon's deadline for a handshake that sets none, in seconds."""
GRACE = 1.0
"""Time to wait for the daemon after the handshake's own deadline, in seconds."""
NO_ANSWER = Outcome(status=Status.TIMED_OUT, reason="the handshake daemon does not answer")

_LARGEST_CRYPTO = MAX_PACKET // 2


def crypto_pieces(data: bytes) -> list[bytes]:
    """Split `data` into pieces that each fit into a packet. Empty data gives one empty piece."""
    return [data[start : start + _LARGEST_CRYPTO] for start in range(0, max(len(data), 1), _LARGEST_CRYPTO)]


def encoded_start(sequence: int, start: Start) -> bytes:
    """Encode `start` with a request for an acknowledgement.

    OSError (EMSGSIZE) if it does not fit into a packet: the daemon would close the connection and end every other
    handshake on it.
    """
    message = push_start(sequence, start, ack=True)
    if len(message) > MAX_PACKET:
        raise OSError(
            Status.TOO_LONG,
            f"Start message too long: {len(message)} bytes with {len(start.trust_anchors)} trust anchors "
            f"(limit {MAX_PACKET})",
        )
    return message


def outcome_of(message: Done | Refused | Malformed) -> Outcome:
    """Return the outcome of a handshake that `message` ends."""
    if isinstance(message, Refused):
        return Outcome(status=message.error.status, reason=message.error.reason)
    if isinstance(message, Malformed):
        return Outcome(reason=f"malformed message from the daemon: {message.error.reason}")
    return message.outcome


class CallerMessages:
    """Translates the daemon's messages for one handshake into what its caller gets."""

    def __init__(self, role: Role) -> None:
        self._early = Direction.SEND if role is Role.CLIENT else Direction.RECEIVE
        self._secrets: set[tuple[Level, Direction]] = set()
        self._done = False

    def translate(self, message: FromDaemon) -> Message:
        """Return `message` for the caller. Errors, and messages that are not expected, become a failed Done."""
        if isinstance(message, Done | Refused | Malformed):
            self._done = True
            return Done(outcome_of(message))
        if isinstance(message, LookupAnswer | Acknowledged) or (isinstance(message, Close) and not self._done):
            return Done(Outcome(reason="unexpected answer from the daemon"))
        if isinstance(message, TrafficSecret) and not self._is_expected(message):
            reason = f"unexpected secret from the daemon: {message.level.name}, {message.direction.name}"
            return Done(Outcome(reason=reason))
        return message

    def _is_expected(self, secret: TrafficSecret) -> bool:
        """Return whether the secret is the first of its level and direction, and early data flows that way."""
        kind = secret.level, secret.direction
        if kind in self._secrets or (secret.level is Level.EARLY and secret.direction is not self._early):
            return False
        self._secrets.add(kind)
        return True
