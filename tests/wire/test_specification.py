"""``netlink/handshaked.yaml`` and the codec agree in both directions."""

import enum
from pathlib import Path
from typing import Any

import pytest
import yaml

from handshaked.model import AuthMode, CipherSuite, Direction, Level, Role
from handshaked.wire import messages
from handshaked.wire.family import pull_from_daemon, pull_from_endpoint
from handshaked.wire.messages import Command, Malformed
from handshaked.wire.netlink import Kind, Policy, push_binary, push_message, push_u32

SPECIFICATION = yaml.safe_load((Path(__file__).parents[2] / "netlink" / "handshaked.yaml").read_text())
SETS = {
    one["name"]: {attribute["name"]: attribute for attribute in one["attributes"]}
    for one in SPECIFICATION["attribute-sets"]
}
DEFINITIONS = {one["name"]: one for one in SPECIFICATION["definitions"]}
OPERATIONS = {one["name"]: one for one in SPECIFICATION["operations"]["list"]}
NUMBERS: dict[Command, type[enum.IntEnum]] = {
    Command.START: messages.StartAttribute,
    Command.CRYPTO: messages.CryptoAttribute,
    Command.SECRET: messages.SecretAttribute,
    Command.TRANSPORT_PARAMETERS: messages.TransportParametersAttribute,
    Command.DONE: messages.DoneAttribute,
    Command.LOOKUP: messages.LookupAttribute,
    Command.CANCEL: messages.CancelAttribute,
    Command.SESSION_TICKET: messages.SessionTicketAttribute,
    Command.CLOSE: messages.CloseAttribute,
}
ENUMS: dict[str, type[enum.IntEnum]] = {
    "msg-type": Role,
    "auth": AuthMode,
    "level": Level,
    "direction": Direction,
    "cipher-suite": CipherSuite,
}


def spec_name(member: enum.IntEnum) -> str:
    return member.name.lower().replace("_", "-")


def policy_of(attribute: dict[str, Any]) -> tuple[str, Kind, int, bool]:
    """Return the specification of an attribute in the codec's terms."""
    checks = attribute.get("checks", {})
    limit = checks.get("max", checks.get("max-len", checks.get("exact-len")))
    kind = Kind[attribute["type"].upper()]
    return attribute["name"], kind, limit if limit is not None else Policy("", kind).maximum, "multi-attr" in attribute


def test_specification_is_a_generic_netlink_family_of_this_version() -> None:
    assert SPECIFICATION["name"] == "handshaked"
    assert SPECIFICATION["protocol"] == "genetlink"
    assert SPECIFICATION["version"] == messages.VERSION
    assert {one["type"] for one in DEFINITIONS.values()} == {"const", "enum"}


def test_constants_match_the_codec() -> None:
    constants = {name: one["value"] for name, one in DEFINITIONS.items() if one["type"] == "const"}
    assert constants == {
        "unix-family": messages.FAMILY,
        "max-packet": messages.MAX_PACKET,
        "max-crypto": messages.MAX_CRYPTO,
        "max-repeats": 64,
    }


def test_enums_match_the_model() -> None:
    found = {}
    for name, definition in DEFINITIONS.items():
        if definition["type"] == "enum":
            entries = definition["entries"]
            if isinstance(entries[0], str):
                entries = [{"name": entry, "value": definition["value-start"] + i} for i, entry in enumerate(entries)]
            found[name] = {entry["name"]: entry["value"] for entry in entries}
    assert found == {name: {spec_name(one): one.value for one in kind} for name, kind in ENUMS.items()}


def test_commands_match_the_codec() -> None:
    assert {name: one["value"] for name, one in OPERATIONS.items()} == {spec_name(one): one.value for one in Command}
    assert all(one["attribute-set"] == name for name, one in OPERATIONS.items())
    assert set(SETS) == {spec_name(command) for command in NUMBERS}


@pytest.mark.parametrize("command", NUMBERS)
def test_attributes_match_in_number_type_and_limit(command: Command) -> None:
    specified = SETS[spec_name(command)]
    assert {attribute["name"]: attribute["value"] for attribute in specified.values()} == {
        spec_name(number): number.value for number in NUMBERS[command]
    }
    codec = {
        number: (policy.name, policy.kind, policy.maximum, policy.multi)
        for number, policy in messages.POLICIES[command].items()
    }
    assert codec == {attribute["value"]: policy_of(attribute) for attribute in specified.values()}


@pytest.mark.parametrize("command", NUMBERS)
def test_enum_attributes_are_limited_to_their_enum(command: Command) -> None:
    for attribute in SETS[spec_name(command)].values():
        if "enum" in attribute and attribute["enum"] != "cipher-suite":
            assert attribute["checks"]["max"] == max(ENUMS[attribute["enum"]])


def message_with(command: Command, names: list[str]) -> bytes:
    """Return a message of `command` with the attributes `names`, each with a valid value."""
    parts = []
    for name in names:
        attribute = SETS[spec_name(command)][name]
        if attribute["type"] == "u32":
            parts.append(push_u32(attribute["value"], {"cipher-suite": 0x1301, "alert": 40, "level": 2}.get(name, 1)))
        elif attribute["type"] == "flag":
            parts.append(push_binary(attribute["value"], b""))
        elif attribute["type"] == "string":
            parts.append(push_binary(attribute["value"], b"a\0"))
        else:
            parts.append(push_binary(attribute["value"], bytes(32)))
    return push_message(messages.FAMILY, 1, command, b"".join(parts))


def listed(command: Command, *directions: str) -> list[str]:
    """Return the attributes that the specification lists for `command` in one of `directions`."""
    operation = OPERATIONS[spec_name(command)]
    places = [operation.get("event"), operation.get("do", {}).get("reply"), operation.get("do", {}).get("request")]
    for direction, place in zip(("event", "reply", "request"), places, strict=True):
        if direction in directions and place is not None:
            return list(place["attributes"])
    return []


@pytest.mark.parametrize("command", Command)
def test_endpoint_may_send_exactly_the_attributes_of_requests(command: Command) -> None:
    requested = listed(command, "request")
    if command is Command.LOOKUP:  # one or the other
        assert requested == ["client-hello", "datagram"]
        packets = [message_with(command, [name]) for name in requested]
    else:
        packets = [message_with(command, requested)]
    understood = [
        not isinstance(message, Malformed) for packet in packets for _, message, _ in pull_from_endpoint(packet)
    ]
    assert all(understood) == ("request" in OPERATIONS[spec_name(command)].get("do", {}))
    if not any(understood):
        return
    for name in SETS.get(spec_name(command), {}):
        if name not in requested:
            ((_, message, _),) = pull_from_endpoint(message_with(command, [*requested[:1], name]))
            assert isinstance(message, Malformed), name


@pytest.mark.parametrize("command", Command)
def test_daemon_may_send_the_attributes_of_replies_and_events(command: Command) -> None:
    said = listed(command, "reply", "event")
    ((_, message),) = pull_from_daemon(message_with(command, said))
    assert isinstance(message, Malformed) == (not said)
