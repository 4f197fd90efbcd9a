"""Arguments are pulled by name and type; missing, invalid and unknown ones are refused by name."""

import pytest

from handshaked.control.requests.arguments import ArgumentError, Arguments
from handshaked.registry.setting_types import Each
from handshaked.registry.settings import POLICY, Policy


def test_absent_null_and_empty_settings_are_the_defaults() -> None:
    for message in ({}, dict.fromkeys(setting.name for setting in POLICY), {"client_auth": "", "deliver": ""}):
        arguments = Arguments(message)
        assert Policy(**{setting.name: arguments.setting(setting) for setting in POLICY}) == Policy()
        arguments.end()


def test_missing_text_is_refused() -> None:
    for message in ({}, {"name": ""}):
        with pytest.raises(ArgumentError, match="name is missing") as refusal:
            Arguments(message).text("name")
        assert refusal.value.name == "name"


def test_invalid_argument_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match="numbers must be a list of strings") as refusal:
        Arguments({"numbers": 1}).each("numbers", Each(int, "number"))
    assert refusal.value.name == "numbers"


def test_unknown_argument_is_refused() -> None:
    arguments = Arguments({"after": "a", "befor": "b"})
    assert arguments.optional_text("after") == "a"
    with pytest.raises(ArgumentError, match="unknown key 'befor'"):
        arguments.end()


def test_objects_are_arguments_of_their_own() -> None:
    [one] = Arguments({"credentials": [{"certificate": "/a"}]}).objects("credentials")
    assert one.text("certificate") == "/a"
    one.end()
    with pytest.raises(ArgumentError, match="credentials must be a list of objects"):
        Arguments({"credentials": ["/a"]}).objects("credentials")
