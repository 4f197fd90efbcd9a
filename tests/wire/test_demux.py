"""The codec of the demultiplexer's family: round trips, the YAML specification, malformed messages."""

from pathlib import Path as FilePath
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import FramingError
from handshaked.wire import demux
from handshaked.wire.demux import (
    FAMILY,
    POLICIES,
    Command,
    Datagram,
    Flow,
    FlowAttribute,
    Listen,
    ListenAttribute,
    Listening,
    Path,
    Release,
    StatusAnswer,
    StatusAttribute,
    StatusQuery,
    pull_from_application,
    pull_from_demux,
)
from handshaked.wire.messages import Malformed
from handshaked.wire.netlink import push_binary, push_message, push_string

SPECIFICATION = FilePath(__file__).parents[2] / "netlink" / "handshaked-demux.yaml"
NAMES = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=15)
DATAGRAMS = st.binary(max_size=1500)
FLOWS = st.builds(
    Flow,
    peer=NAMES,
    local=NAMES,
    datagrams=st.lists(DATAGRAMS, max_size=4).map(tuple),
    registration=st.none() | NAMES,
    server_name=st.none() | NAMES,
    alpn=st.none() | st.binary(min_size=1, max_size=255),
    original_cid=st.none() | st.binary(max_size=20),
    relayed=st.booleans(),
)


@given(NAMES, st.none() | st.binary(min_size=4, max_size=4), st.integers(0, 1 << 24))
def test_messages_of_applications_survive_a_round_trip(name: str, route: bytes | None, held: int) -> None:
    packet = (
        demux.push_listen(1, Listen(name, route, held))
        + demux.push_path(2, Path(name, name))
        + demux.push_release(Release(held))
        + demux.push_status(4)
    )
    expected = [Listen(name, route, held), Path(name, name), Release(held), StatusQuery()]
    assert [message for _, message in pull_from_application(packet)] == expected


@given(FLOWS, NAMES, DATAGRAMS)
def test_messages_of_the_demultiplexer_survive_a_round_trip(flow: Flow, name: str, datagram: bytes) -> None:
    packets = [
        (demux.push_listening(1, Listening(name, b"1234")), Listening(name, b"1234")),
        (demux.push_flow(2, flow), flow),
        (demux.push_datagram(Datagram(name, name, datagram)), Datagram(name, name, datagram)),
        (demux.push_status(4, StatusAnswer("a 1\nb 2\n")), StatusAnswer("a 1\nb 2\n")),
    ]
    for packet, message in packets:
        assert [found for _, found in pull_from_demux(packet)] == [message]


@pytest.mark.parametrize(
    ("command", "attributes", "reason"),
    [
        (99, b"", "unsupported command"),
        (Command.FLOW, b"", "unsupported command"),  # from an application
        (Command.LISTEN, b"", "is missing"),
        (Command.LISTEN, push_string(1, "a") + push_binary(2, b"123"), "expected 4"),
        (Command.PATH, push_string(1, "a"), "is missing"),
        (Command.RELEASE, b"", "is missing"),
        (Command.PATH, push_string(1, "a\nb"), "control characters"),
    ],
)
def test_invalid_message_of_an_application_is_refused(command: int, attributes: bytes, reason: str) -> None:
    ((sequence, message),) = pull_from_application(push_message(FAMILY, 7, command, attributes))
    assert isinstance(message, Malformed)
    assert sequence == 7
    assert reason in message.error.reason


@given(st.binary(max_size=200))
def test_random_packet_is_decoded_or_refused(packet: bytes) -> None:
    for pull in (pull_from_application, pull_from_demux):
        try:
            list(pull(packet))
        except FramingError:
            continue


def test_numbers_match_the_specification() -> None:
    specification: dict[str, Any] = yaml.safe_load(SPECIFICATION.read_text())
    commands = {one["name"]: one["value"] for one in specification["operations"]["list"]}
    assert commands == {command.name.lower(): command.value for command in Command}
    sets = {one["name"]: one["attributes"] for one in specification["attribute-sets"]}
    for name, attributes in (("listen", ListenAttribute), ("flow", FlowAttribute), ("status", StatusAttribute)):
        named = {one["name"]: one["value"] for one in sets[name]}
        assert named == {one.name.lower().replace("_", "-"): one.value for one in attributes}
    for operation in specification["operations"]["list"]:
        policies = POLICIES[Command(operation["value"])]
        kinds = {policy.name: policy.kind.name.lower() for policy in policies.values()}
        assert kinds == {one["name"]: one["type"] for one in sets[operation["attribute-set"]]}
