"""The message LOOKUP: which registration would serve a ClientHello, and the answer."""

from typing import Any

from handshaked.errors import WireError
from handshaked.wire.fields import printable, pull_alert
from handshaked.wire.messages import FAMILY, Command, Lookup, LookupAnswer, LookupAttribute
from handshaked.wire.netlink import NLM_F_REQUEST, push_binary, push_message, push_string, push_u32


def push_lookup(sequence: int, lookup: Lookup) -> bytes:
    """Encode the question, sent by the endpoint."""
    a = LookupAttribute
    parts = [push_binary(a.DATAGRAM, datagram) for datagram in lookup.datagrams]
    if lookup.client_hello is not None:
        parts.append(push_binary(a.CLIENT_HELLO, lookup.client_hello))
    return push_message(FAMILY, sequence, Command.LOOKUP, b"".join(parts), NLM_F_REQUEST)


def push_lookup_answer(sequence: int, answer: LookupAnswer) -> bytes:
    """Encode the answer, sent by the daemon."""
    a = LookupAttribute
    parts = [push_u32(a.STATUS, answer.status)]
    if answer.registration is not None:
        parts.append(push_string(a.REGISTRATION, answer.registration))
    if answer.alpn is not None:
        parts.append(push_binary(a.ALPN, answer.alpn))
    if answer.server_name is not None:
        parts.append(push_string(a.SERVER_NAME, printable(answer.server_name, 255)))
    if answer.alert is not None:
        parts.append(push_u32(a.ALERT, answer.alert))
    if answer.quic_error is not None:
        parts.append(push_u32(a.QUIC_ERROR, answer.quic_error))
    if answer.reason:
        parts.append(push_string(a.REASON, printable(answer.reason)))
    return push_message(FAMILY, sequence, Command.LOOKUP, b"".join(parts))


def pull_lookup(values: dict[int, Any]) -> Lookup:
    """Return the question with these attributes."""
    a = LookupAttribute
    if not values.keys() <= {a.CLIENT_HELLO, a.DATAGRAM} or len(values) != 1:
        raise WireError("a lookup carries either a client-hello or datagrams", attribute="client-hello")
    return Lookup(values.get(a.CLIENT_HELLO), tuple(values.get(a.DATAGRAM, ())))


def pull_lookup_answer(values: dict[int, Any]) -> LookupAnswer:
    """Return the answer with these attributes."""
    a = LookupAttribute
    if a.STATUS not in values:
        raise WireError("is missing", attribute="status")
    return LookupAnswer(
        status=values[a.STATUS],
        registration=values.get(a.REGISTRATION),
        alpn=values.get(a.ALPN),
        server_name=values.get(a.SERVER_NAME),
        alert=pull_alert(values.get(a.ALERT)),
        reason=values.get(a.REASON, ""),
        quic_error=values.get(a.QUIC_ERROR),
    )
