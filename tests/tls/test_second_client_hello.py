"""The ClientHello that answers a HelloRetryRequest (RFC 8446 section 4.1.2)."""

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.model import Group, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.codepoints import ExtensionType as E
from handshaked.tls.server import ServerHandshake
from tests.tls.pair import NOW, client_parameters, data, kinds, server_parameters
from tests.tls.test_client_hello import Hello, hello, vector


def second(change: object) -> Alert | None:
    """Return the alert for a second ClientHello altered by `change`, or None."""
    client = ClientHandshake(client_parameters())
    server = ServerHandshake()
    server.receive(Level.INITIAL, data(client.start(NOW)), NOW)
    retry = server.proceed(server_parameters(groups=(Group.SECP384R1,)), NOW)
    again = Hello.parse(data(client.receive(Level.INITIAL, data(retry), NOW)))
    change(again)  # type: ignore[operator]  # a callable
    try:
        assert kinds(server.receive(Level.INITIAL, again.encode(), NOW))[0] == "crypto initial"
    except PeerError as error:
        return error.alert
    return None


def test_unchanged_second_hello_is_accepted() -> None:
    assert second(lambda again: None) is None


def test_second_hello_may_be_padded() -> None:
    assert second(lambda again: again.put(21, bytes(100))) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda again: again.put(E.SERVER_NAME, b"\0\x09\0\0\x06b.test"),
        lambda again: again.put(E.ALPN, b"\0\x03\x02h2"),
        lambda again: again.put(E.SUPPORTED_GROUPS, b"\0\x02\0\x18"),
        lambda again: again.put(E.QUIC_TRANSPORT_PARAMETERS, b"other"),
        lambda again: again.put(E.COOKIE, b"\0\x01a"),
        lambda again: again.put(0x1234, b""),
        lambda again: again.without(E.PSK_KEY_EXCHANGE_MODES),
        lambda again: again.put(E.KEY_SHARE, hello().body(E.KEY_SHARE)),
        lambda again: again.put(E.KEY_SHARE, b"\0\0"),
        lambda again: again.put(E.KEY_SHARE, vector(again.body(E.KEY_SHARE)[2:] + b"\x12\x34\0\x01s")),
        lambda again: again.extensions.insert(0, (0x1234, b"")),
        lambda again: setattr(again, "suites", b"\x13\x01"),
        lambda again: setattr(again, "random", bytes(32)),
        lambda again: setattr(again, "version", b"\x03\x02"),
    ],
)
def test_second_hello_with_other_changes_is_refused(change: object) -> None:
    assert second(change) is Alert.ILLEGAL_PARAMETER
