"""Secrets in the format of SSLKEYLOGFILE."""

from handshaked.model import Level
from tests.tls.pair import client_parameters, pair, server_parameters


def test_both_sides_log_all_secrets() -> None:
    client_lines: list[str] = []
    server_lines: list[str] = []
    client, server = client_parameters(keylog=client_lines.append), server_parameters(keylog=server_lines.append)
    done = pair(client, server).run()
    assert sorted(client_lines) == sorted(server_lines)
    assert {line.split()[0] for line in client_lines} == {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
        "EXPORTER_SECRET",
    }
    logged = dict(line.split()[::2] for line in client_lines)
    assert logged["CLIENT_TRAFFIC_SECRET_0"] == done.secrets()[Level.APPLICATION, "up"].hex()
    assert logged["SERVER_HANDSHAKE_TRAFFIC_SECRET"] == done.secrets()[Level.HANDSHAKE, "down"].hex()
