"""Stateless answers, processed by aioquic's client."""

from typing import Any, cast

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated

from handshaked.errors import Alert
from handshaked.quic.answers import push_close, push_retry, push_version_negotiation
from handshaked.quic.packets import VERSION_1, VERSION_2, VERSIONS, LongHeader, pull_initials, pull_long_header

SERVER = ("127.0.0.1", 443)


def client(version: int = VERSION_1) -> tuple[QuicConnection, bytes, LongHeader]:
    """Return a client, its first datagram, and the header of that."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], original_version=version)
    connection = QuicConnection(configuration=configuration)
    connection.connect(SERVER, now=0.0)
    datagram = connection.datagrams_to_send(now=0.0)[0][0]
    header = pull_long_header(datagram)
    assert header is not None
    return connection, datagram, header


@pytest.mark.parametrize("version", VERSIONS)
def test_close_carries_the_alert(version: int) -> None:
    connection, datagram, header = client(version)
    answer = push_close(header, Alert.UNRECOGNIZED_NAME.quic_error, "unrecognized_name")
    assert len(answer) <= 3 * len(datagram)
    connection.receive_datagram(answer, SERVER, now=0.1)
    connection.handle_timer(now=100.0)
    event = connection.next_event()
    while event is not None and not isinstance(event, ConnectionTerminated):
        event = connection.next_event()
    assert event is not None
    assert (event.error_code, event.reason_phrase) == (0x100 + 112, "unrecognized_name")


@pytest.mark.parametrize("version", VERSIONS)
def test_client_repeats_its_initial_after_a_retry(version: int) -> None:
    connection, _, header = client(version)
    connection.receive_datagram(push_retry(header, b"new name", b"a token"), SERVER, now=0.1)
    again = connection.datagrams_to_send(now=0.1)[0][0]
    packet = next(pull_initials(again))
    assert (packet.destination_cid, packet.token) == (b"new name", b"a token")


def test_version_negotiation_lists_the_supported_versions() -> None:
    connection, _, header = client()
    connection.receive_datagram(push_version_negotiation(header), SERVER, now=0.1)
    # The client offered version 1 itself: it must ignore such an answer (RFC 9000 section 6.2).
    assert cast("Any", connection)._close_event is None  # noqa: SLF001 - aioquic tells it in no other way
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], original_version=0xFF00001D, supported_versions=[0xFF00001D, VERSION_2]
    )
    other = QuicConnection(configuration=configuration)
    other.connect(SERVER, now=0.0)
    sent = pull_long_header(other.datagrams_to_send(now=0.0)[0][0])
    assert sent is not None
    other.receive_datagram(push_version_negotiation(sent), SERVER, now=0.1)
    again = pull_long_header(other.datagrams_to_send(now=0.1)[0][0])
    assert again is not None
    assert again.version == VERSION_2
