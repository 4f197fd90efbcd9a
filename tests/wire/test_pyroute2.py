"""Our messages are generic netlink: pyroute2 decodes them, and we decode pyroute2's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import genlmsg  # type: ignore[import-untyped] # it has no stubs

from handshaked.model import Role
from handshaked.wire import family
from handshaked.wire.family import (
    pull_from_daemon,
    pull_from_endpoint,
    push_cancel,
    push_crypto,
    push_done,
    push_peer_transport_parameters,
    push_secret,
    push_start,
)
from handshaked.wire.lookup import push_lookup, push_lookup_answer
from handshaked.wire.messages import FAMILY, Cancel, Command, Lookup, Start
from handshaked.wire.netlink import NLM_F_ACK, NLM_F_REQUEST, Kind
from tests.wire import messages

_KINDS = {Kind.U32: "uint32", Kind.STRING: "asciiz", Kind.BINARY: "cdata", Kind.FLAG: "flag"}


def decoder(command: Command) -> type[genlmsg]:
    """Return pyroute2's class for the messages of `command`."""
    nla_map = tuple(
        (int(number), f"A{int(number)}", _KINDS[policy.kind]) for number, policy in family.POLICIES[command].items()
    )
    return type(f"{command.name.title()}Message", (genlmsg,), {"nla_map": nla_map, "prefix": "A"})


CLASSES = {command: decoder(command) for command in Command}


def decoded(packet: bytes, command: Command) -> dict[str, Any]:
    """Return what pyroute2 decodes from `packet`: header fields, and lists of values by attribute number."""
    message = CLASSES[command](packet)
    message.decode()
    attributes: dict[int, list[Any]] = {}
    for name, value in message.get("attrs", ()):
        attributes.setdefault(int(name[1:]), []).append(value)
    return {
        "length": message["header"]["length"],
        "type": message["header"]["type"],
        "flags": message["header"]["flags"],
        "sequence": message["header"]["sequence_number"],
        "command": message["cmd"],
        "version": message["version"],
        "attributes": attributes,
    }


def encoded(command: Command, sequence: int, attributes: list[tuple[int, Any]], flags: int = 0) -> bytes:
    """Return pyroute2's encoding of a message."""
    message = CLASSES[command]()
    message["cmd"] = command
    message["version"] = family.VERSION
    message["attrs"] = [(f"A{number}", value) for number, value in attributes]
    message["header"]["type"] = FAMILY
    message["header"]["sequence_number"] = sequence
    message["header"]["flags"] = flags
    message.encode()
    return bytes(message.data)


def values(packet: bytes, command: Command) -> list[tuple[int, Any]]:
    """Return the attributes that pyroute2 finds in `packet`, in order."""
    message = CLASSES[command](packet)
    message.decode()
    return [(int(name[1:]), value) for name, value in message.get("attrs", ())]


@given(messages.SEQUENCES, messages.STARTS)
def test_pyroute2_decodes_our_start(sequence: int, start: Start) -> None:
    packet = push_start(sequence, start, ack=True)
    found = decoded(packet, Command.START)
    a = family.StartAttribute
    attributes = found.pop("attributes")
    assert found == {
        "length": len(packet),
        "type": FAMILY,
        "flags": NLM_F_REQUEST | NLM_F_ACK,
        "sequence": sequence,
        "command": Command.START,
        "version": family.VERSION,
    }
    assert attributes[a.MESSAGE_TYPE] == [start.role]
    assert attributes[a.AUTH_MODE] == [start.auth_mode]
    assert attributes.get(a.TIMEOUT) == (None if start.timeout is None else [round(start.timeout * 1000)])
    assert attributes.get(a.PEERNAME) == (None if start.server_name is None else [start.server_name])
    assert attributes.get(a.ALPN, []) == list(start.alpns)
    assert attributes.get(a.TRUST_ANCHOR, []) == list(start.trust_anchors)
    assert attributes.get(a.CIPHER_SUITE, []) == list(start.cipher_suites)
    assert attributes.get(a.TRANSPORT_PARAMETERS) == (
        None if start.transport_parameters is None else [start.transport_parameters]
    )


@given(messages.SEQUENCES, messages.STARTS)
def test_start_encoded_by_pyroute2_is_decoded(sequence: int, start: Start) -> None:
    ours = push_start(sequence, start)
    theirs = encoded(Command.START, sequence, values(ours, Command.START), NLM_F_REQUEST)
    assert list(pull_from_endpoint(theirs)) == [(sequence, start, False)]


@pytest.mark.parametrize(
    ("command", "push", "strategy"),
    [
        (Command.CRYPTO, push_crypto, messages.DAEMON_CRYPTO),
        (Command.SECRET, push_secret, messages.SECRETS),
        (Command.TRANSPORT_PARAMETERS, push_peer_transport_parameters, messages.PEER_PARAMETERS),
        (Command.DONE, lambda sequence, done: push_done(sequence, done.outcome), messages.DONES),
        (Command.LOOKUP, push_lookup_answer, messages.ANSWERS),
    ],
)
@given(data=st.data())
def test_messages_of_the_daemon_survive_pyroute2(
    command: Command, push: Any, strategy: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    sequence, message = data.draw(messages.SEQUENCES), data.draw(strategy)
    theirs = encoded(command, sequence, values(push(sequence, message), command))
    assert list(pull_from_daemon(theirs)) == [(sequence, message)]


@given(messages.SEQUENCES, messages.LOOKUPS)
def test_lookup_survives_pyroute2(sequence: int, lookup: Lookup) -> None:
    theirs = encoded(Command.LOOKUP, sequence, values(push_lookup(sequence, lookup), Command.LOOKUP))
    assert list(pull_from_endpoint(theirs)) == [(sequence, lookup, False)]


def test_cancel_survives_pyroute2() -> None:
    assert decoded(push_cancel(3), Command.CANCEL)["attributes"] == {}
    assert decoded(push_cancel(3, "why"), Command.CANCEL)["attributes"] == {family.CancelAttribute.REASON: ["why"]}
    assert list(pull_from_endpoint(encoded(Command.CANCEL, 3, []))) == [(3, Cancel(), False)]


def test_start_written_by_hand_with_pyroute2_is_decoded() -> None:
    a = family.StartAttribute
    packet = encoded(
        Command.START,
        1,
        [(a.MESSAGE_TYPE, 2), (a.ALPN, b"h3"), (a.ALPN, b"hq"), (a.PEERNAME, "a.example.com"), (a.TIMEOUT, 3000)],
        NLM_F_REQUEST | NLM_F_ACK,
    )
    expected = Start(Role.SERVER, timeout=3.0, alpns=(b"h3", b"hq"), server_name="a.example.com")
    assert list(pull_from_endpoint(packet)) == [(1, expected, True)]
