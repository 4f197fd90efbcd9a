"""Types of settings accept their values, refuse others by name, and show what they accept."""

from typing import Any

import pytest

from handshaked.errors import RefusedError
from handshaked.registry.names import parse_alpn, show_alpn
from handshaked.registry.setting_types import MAX_TEXT, Choice, Each, File, Flag, Number, SettingType, Text

ALPNS = Each(parse_alpn, "ALPN", 2, show_alpn)


@pytest.mark.parametrize(
    ("kind", "value", "pulled", "words"),
    [
        (Flag(), True, True, "yes"),
        (Flag(), False, False, "no"),
        (Number(4), 0, 0, "0"),
        (Number(4), 4, 4, "4"),
        (Text(str.upper), "a b", "A B", "A B"),
        (File(), "/a", "/a", "/a"),
        (Choice(("one", "two")), "two", "two", "two"),
        (ALPNS, ["h3", "\\x00"], (b"h3", b"\0"), "h3, \\x00"),
        (ALPNS, [], (), ""),
    ],
)
def test_valid_value_is_pulled_and_shown(kind: SettingType[Any], value: object, pulled: object, words: str) -> None:
    assert kind.pull("name", value) == pulled
    assert kind.words(kind.show(pulled)) == words


@pytest.mark.parametrize(
    ("kind", "value", "refusal"),
    [
        (Flag(), 1, "name must be true or false"),
        (Number(4), 5, "name must be an integer from 0 to 4"),
        (Number(4), -1, "name must be an integer from 0 to 4"),
        (Number(4), True, "name must be an integer from 0 to 4"),
        (Number(4), "1", "name must be an integer from 0 to 4"),
        (Text(), 7, "name must be a printable string"),
        (Text(), "\n", "name must be a printable string"),
        (Text(), "x" * (MAX_TEXT + 1), "name must be a printable string"),
        (Choice(("one", "two")), "three", "name must be one of one, two, not 'three'"),
        (Choice(("one", "two")), ["one"], "name must be one of one, two"),
        (ALPNS, "h3", "name must be a list of strings"),
        (ALPNS, [3], "name must be a list of strings"),
        (ALPNS, ["h3", "h3"], "the same ALPN is given twice"),
        (ALPNS, ["a", "b", "c"], "name has 3 entries, at most 2 are allowed"),
        (ALPNS, [""], "0 bytes: use 1 to 255"),
    ],
)
def test_invalid_value_is_refused_by_name(kind: SettingType[Any], value: object, refusal: str) -> None:
    with pytest.raises(RefusedError, match=refusal):
        kind.pull("name", value)


def test_several_words_of_a_command_line_are_joined() -> None:
    kind = Text(several_words=True)
    assert kind.command_line("accept") == {"nargs": "+", "default": ["accept"]}
    assert kind.given(["forward", "192.0.2.1:443"]) == "forward 192.0.2.1:443"
