"""Lines of the SSLKEYLOGFILE format (draft-ietf-tls-keylogfile). They decrypt the connection."""

from collections.abc import Callable

from handshaked.model import Level

KeyLog = Callable[[str], None]

EXPORTER = "EXPORTER_SECRET"
_TRAFFIC = {
    (Level.EARLY, True): "CLIENT_EARLY_TRAFFIC_SECRET",
    (Level.HANDSHAKE, True): "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    (Level.HANDSHAKE, False): "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    (Level.APPLICATION, True): "CLIENT_TRAFFIC_SECRET_0",
    (Level.APPLICATION, False): "SERVER_TRAFFIC_SECRET_0",
}


def traffic_line(level: Level, client_random: bytes, secret: bytes, *, of_client: bool) -> str:
    """Return the line of a traffic secret."""
    return f"{_TRAFFIC[level, of_client]} {client_random.hex()} {secret.hex()}"


def exporter_line(client_random: bytes, secret: bytes) -> str:
    """Return the line of the exporter secret."""
    return f"{EXPORTER} {client_random.hex()} {secret.hex()}"
