"""``netlink/handshake.yaml`` and the codec of the kernel's messages agree in both directions."""

import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from handshaked.model import AuthMode, Role
from handshaked.upcall.kernel_messages import (
    FAMILY_NAME,
    GROUP_NAME,
    Accepted,
    InvalidRequest,
    Ready,
    pull_from_kernel,
    push_accept,
    push_done,
)
from handshaked.wire.netlink import Frame, pull_frames, push_binary, push_message, push_string, push_u32

SPECIFICATION = yaml.safe_load((Path(__file__).parents[2] / "netlink" / "handshake.yaml").read_text())
SETS = {
    one["name"]: {attribute["name"]: attribute for attribute in one["attributes"]}
    for one in SPECIFICATION["attribute-sets"]
}
ENUMS = {one["name"]: dict(enumerate(one["entries"])) for one in SPECIFICATION["definitions"]}
OPERATIONS = {one["name"]: one for one in SPECIFICATION["operations"]["list"]}
FAMILY = 33


def push(attribute: dict[str, Any], value: Any) -> bytes:
    """Encode an attribute by the specification."""
    number = attribute["value"]
    match attribute["type"]:
        case "u32":
            return push_u32(number, value)
        case "s32":
            return push_binary(number, struct.pack("=i", value))
        case "string":
            return push_string(number, value)
        case _:
            nested = SETS[attribute["nested-attributes"]]
            return push_binary(number | 0x8000, b"".join(push(nested[name], one) for name, one in value.items()))


def pull(frame: Frame, attributes: dict[str, Any]) -> list[tuple[str, Any]]:
    """Decode the attributes of a message by the specification; return them by name."""
    names = {attribute["value"]: attribute for attribute in attributes.values()}
    found, data = [], frame.attributes
    while data:
        length, number = struct.unpack_from("=HH", data)
        attribute, value = names[number], data[4:length]
        if attribute["type"] == "string":
            found.append((attribute["name"], value.rstrip(b"\0").decode()))
        else:
            found.append((attribute["name"], struct.unpack("=i" if attribute["type"] == "s32" else "=I", value)[0]))
        data = data[(length + 3) & ~3 :]
    return found


def accepted(**values: Any) -> object:
    """Decode an ACCEPT reply with these attributes; repeatable ones have a list of values."""
    attributes = b""
    for name in OPERATIONS["accept"]["do"]["reply"]["attributes"]:
        value = values.pop(name.replace("-", "_"), None)
        if value is not None:
            repeated = value if "multi-attr" in SETS["accept"][name] else [value]
            attributes += b"".join(push(SETS["accept"][name], one) for one in repeated)
    assert not values, "in the reply"
    ((_, message),) = pull_from_kernel(push_message(FAMILY, 1, OPERATIONS["accept"]["value"], attributes), FAMILY)
    return message


def test_family_matches_the_specification() -> None:
    assert (SPECIFICATION["name"], SPECIFICATION["protocol"], SPECIFICATION["version"]) == (FAMILY_NAME, "genetlink", 1)
    assert OPERATIONS["ready"]["mcgrp"] == GROUP_NAME
    assert GROUP_NAME in [group["name"] for group in SPECIFICATION["mcast-groups"]["list"]]


def test_enums_match_the_model() -> None:
    assert ENUMS["auth"] == {mode.value: mode.name.lower() for mode in AuthMode}
    assert ENUMS["msg-type"] == {0: "unspec", Role.CLIENT: "clienthello", Role.SERVER: "serverhello"}


def test_ready_matches_the_specification() -> None:
    operation = OPERATIONS["ready"]
    attributes = b"".join(push(SETS["accept"][name], 1) for name in operation["event"]["attributes"])
    ((_, message),) = pull_from_kernel(push_message(FAMILY, 0, operation["value"], attributes), FAMILY)
    assert message == Ready()


def test_accept_matches_the_specification() -> None:
    (frame,) = pull_frames(push_accept(FAMILY, 1))
    operation = OPERATIONS["accept"]
    assert (frame.command, frame.version) == (operation["value"], SPECIFICATION["version"])
    sent = pull(frame, SETS["accept"])
    assert [name for name, _ in sent] == operation["do"]["request"]["attributes"]
    assert [ENUMS["handler-class"][value] for _, value in sent] == [GROUP_NAME]


def test_every_attribute_of_a_request_is_decoded() -> None:
    message = accepted(
        sockfd=7, message_type=1, timeout=10_000, auth_mode=2, peer_identity=[11, 12], peername="server.test",
        certificate=[{"cert": 21, "privkey": 22}, {"cert": 31, "privkey": 32}], keyring=41,
    )  # fmt: skip
    assert message == Accepted(
        descriptor=7,
        role=Role.CLIENT,
        auth_mode=AuthMode.PSK,
        timeout=10.0,
        peer_name="server.test",
        identity_keys=(11, 12),
        certificate_keys=((21, 22), (31, 32)),
        keyring=41,
    )


def test_zero_serials_name_no_key() -> None:
    message = accepted(
        sockfd=7, message_type=2, auth_mode=2, peer_identity=[0], certificate=[{"cert": 21, "privkey": 0}], keyring=0
    )
    assert message == Accepted(7, Role.SERVER, AuthMode.PSK, None, None, (), (), None)


@pytest.mark.parametrize("role", ENUMS["msg-type"])
@pytest.mark.parametrize("mode", ENUMS["auth"])
def test_every_enum_value_is_decoded_or_refused(role: int, mode: int) -> None:
    message = accepted(sockfd=7, message_type=role, auth_mode=mode)
    assert message.descriptor == 7
    if ENUMS["msg-type"][role] == "unspec":
        assert isinstance(message, InvalidRequest)
    else:
        assert (message.role, message.auth_mode) == (role, mode)


def test_done_matches_the_specification() -> None:
    (frame,) = pull_frames(push_done(FAMILY, 1, 7, 13, (-1, 99), ("a", "b")))
    operation = OPERATIONS["done"]
    assert frame.command == operation["value"]
    sent = pull(frame, SETS["done"])
    assert {name for name, _ in sent} == set(operation["do"]["request"]["attributes"])
    assert sent == [
        ("status", 13), ("sockfd", 7), ("remote-auth", 0xFFFFFFFF), ("remote-auth", 99), ("tag", "a"), ("tag", "b"),
    ]  # fmt: skip
