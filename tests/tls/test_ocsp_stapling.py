"""Stapled OCSP responses (RFC 8446 section 4.4.2.1)."""

import dataclasses

import pytest

from handshaked.model import Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.client_hello import pull_client_hello
from handshaked.tls.codepoints import ExtensionType
from handshaked.tls.extensions import push_ocsp_response
from handshaked.tls.server import ServerHandshake
from tests.tls.pair import NOW, client_parameters, credential, data, kinds, server_parameters
from tests.tls.test_client_hello import hello

STAPLED = dataclasses.replace(credential(), ocsp_response=b"an OCSP response")


@pytest.mark.parametrize("asked", [True, False])
def test_response_is_stapled_if_requested(asked: bool) -> None:
    message = hello(client_parameters(compressions=()))
    if asked:
        message.put(ExtensionType.STATUS_REQUEST, b"\x01\0\0\0\0")
    server = ServerHandshake()
    server.receive(Level.INITIAL, message.encode(), NOW)
    flight = data(server.proceed(server_parameters(credential=STAPLED), NOW), Level.HANDSHAKE)
    assert (push_ocsp_response(b"an OCSP response") in flight) is asked


@pytest.mark.parametrize(("valid", "stapled"), [((-10, 10), True), ((-10, -1), False), ((1, 10), False)])
def test_response_is_stapled_only_while_it_is_valid(valid: tuple[float, float], stapled: bool) -> None:
    """The same credential serves handshakes before and after the response has ended."""
    timed = dataclasses.replace(STAPLED, ocsp_valid=(NOW + valid[0], NOW + valid[1]))
    message = hello(client_parameters(compressions=())).put(ExtensionType.STATUS_REQUEST, b"\x01\0\0\0\0").encode()
    for now, expected in ((NOW, stapled), (NOW + valid[1] + 1, False)):
        server = ServerHandshake()
        server.receive(Level.INITIAL, message, now)
        flight = data(server.proceed(server_parameters(credential=timed), now), Level.HANDSHAKE)
        assert (push_ocsp_response(b"an OCSP response") in flight) is expected


def test_status_request_of_another_type_is_ignored() -> None:
    message = hello().put(ExtensionType.STATUS_REQUEST, b"\x02whatever")
    server = ServerHandshake()
    server.receive(Level.INITIAL, message.encode(), NOW)
    assert kinds(server.proceed(server_parameters(credential=STAPLED), NOW))[-1] == "secret application send"


def test_encoding_of_an_ocsp_response() -> None:
    assert push_ocsp_response(b"response") == b"\0\x05\0\x0c\x01\0\0\x08response"


def test_client_does_not_request_a_stapled_response() -> None:
    sent = pull_client_hello(data(ClientHandshake(client_parameters()).start(NOW)))
    assert not sent.status_request
