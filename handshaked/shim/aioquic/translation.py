"""Translation between the daemon's types and aioquic's."""

from datetime import UTC, datetime

from aioquic import tls
from aioquic.quic.packet import QuicErrorCode

from handshaked.errors import Alert, Status
from handshaked.events import SessionTicket
from handshaked.model import Direction, Level, Outcome
from handshaked.shim.aioquic.remote_tls import RemoteTls

EPOCHS = {
    Level.INITIAL: tls.Epoch.INITIAL,
    Level.EARLY: tls.Epoch.ZERO_RTT,
    Level.HANDSHAKE: tls.Epoch.HANDSHAKE,
    Level.APPLICATION: tls.Epoch.ONE_RTT,
}
LEVELS = {epoch: level for level, epoch in EPOCHS.items()}
DIRECTIONS = {Direction.SEND: tls.Direction.ENCRYPT, Direction.RECEIVE: tls.Direction.DECRYPT}

_QUIC_EARLY_DATA = 0xFFFFFFFF  # RFC 9001 section 4.6.1


def error_code(outcome: Outcome) -> int:
    """Return the QUIC error code to close a connection with after a failed handshake (RFC 9000 section 20.1)."""
    if outcome.quic_error is not None:
        return outcome.quic_error
    return QuicErrorCode.APPLICATION_ERROR if outcome.status == Status.CANCELED else QuicErrorCode.INTERNAL_ERROR


def error_text(error_code: int) -> str:
    """Return the name of the alert that a QUIC error code carries, or the code as a number."""
    alerts = {alert.quic_error: alert.label for alert in Alert}
    return alerts.get(error_code, f"error {error_code:#x}")


def aioquic_ticket(remote: RemoteTls, ticket: SessionTicket) -> tls.SessionTicket:
    """Return `ticket` as an aioquic ticket. Its content is opaque: only a daemon can use it."""
    return tls.SessionTicket(
        age_add=0,
        cipher_suite=tls.CipherSuite.AES_128_GCM_SHA256,  # meaningless: the real one is inside the ticket
        not_valid_before=datetime.now(UTC),
        not_valid_after=datetime.fromtimestamp(ticket.expires, UTC),
        resumption_secret=b"",
        server_name=remote.server_name or "",
        ticket=ticket.state,
        max_early_data_size=_QUIC_EARLY_DATA if ticket.early_data else None,
        other_extensions=remote.received_extensions,
    )
