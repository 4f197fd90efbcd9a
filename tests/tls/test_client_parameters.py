"""Parameters that a client refuses, and server names that it does not send."""

import pytest

from handshaked.errors import CallerError, LocalError
from handshaked.events import CryptoData
from handshaked.model import Group, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.psk import ExternalPsk
from handshaked.tls.server import ServerHandshake
from tests.tls.pair import NOW, client_parameters


@pytest.mark.parametrize(
    "wrong",
    [
        {"verifier": object(), "server_name": None},
        {"verifier": object(), "server_name": ""},
        {"alpns": ()},
        {"alpns": (b"",)},
        {"alpns": (bytes(256),)},
        {"transport_parameters": None},
        {"cipher_suites": ()},
        {"groups": ()},
        {"groups": (Group.SECP256R1,), "key_shares": (Group.X25519,)},
        {"psk": ExternalPsk(b"", bytes(32))},
        {"psk": ExternalPsk(bytes(70_000), bytes(32))},
        {"alpns": tuple(number.to_bytes(200) for number in range(300))},
        {"transport_parameters": bytes(65_500)},
    ],
)
def test_invalid_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(CallerError):
        ClientHandshake(client_parameters(**wrong)).start(NOW)


def test_client_starts_once() -> None:
    client = ClientHandshake(client_parameters())
    client.start(NOW)
    with pytest.raises(LocalError):
        client.start(NOW)


@pytest.mark.parametrize("name", ["192.0.2.1", "2001:db8::1", "fe80::1%eth0", "1.2", "bücher.example"])
def test_names_that_are_no_dns_names_are_not_sent(name: str) -> None:
    (event,) = ClientHandshake(client_parameters(server_name=name)).start(NOW)
    assert isinstance(event, CryptoData)
    server = ServerHandshake()
    server.receive(Level.INITIAL, event.data, NOW)
    assert server.client_hello is not None
    assert server.client_hello.server_name is None
