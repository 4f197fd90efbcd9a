"""The wire format of values, and limits on what strangers may let us decode."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.control.bus.marshalling import MalformedError, Variant, marshal, types_of, unmarshal

VALUES: list[tuple[str, list[Any]]] = [
    ("", []),
    ("ybnqiuxtd", [255, True, -2, 3, -4, 5, -6, 7, 0.5]),
    ("sog", ["grün", "/a/b_c", "a{sv}"]),
    ("as", [["one", "", "three"]]),
    ("ay", [b"bytes"]),
    ("a{sx}", [{"a": 1, "b": -1}]),
    ("(s(yd))ah", [["x", [1, 2.5]], [0, 1]]),
    ("ya(yv)", [7, [[1, Variant("s", "x")], [2, Variant("ax", [1, 2])], [3, Variant("v", Variant("b", False))]]]),
    ("a{oa{sa{sv}}}", [{"/o": {"i": {"p": Variant("aa{ss}", [{"a": "b"}])}}, "/p": {}}]),
]


def plain(value: Any) -> Any:
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, list):
        return [plain(one) for one in value]
    return {key: plain(one) for key, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(("signature", "values"), VALUES)
def test_values_are_marshalled_and_back(signature: str, values: list[Any]) -> None:
    assert unmarshal(signature, marshal(signature, values), "<", 100) == plain(values)


def test_values_are_padded_as_the_specification_says() -> None:
    assert marshal("yxas", [1, 2, ["a"]]) == (
        b"\x01" + bytes(7) + b"\x02" + bytes(7) + b"\x06\0\0\0" + b"\x01\0\0\0a\0"
    )


def test_big_endian_values_are_read() -> None:
    assert unmarshal("qs", b"\x01\x02\0\0\0\0\0\x01x\0", ">", 10) == [0x102, "x"]


@pytest.mark.parametrize(("signature", "values"), VALUES[1:])
def test_truncated_values_are_malformed(signature: str, values: list[Any]) -> None:
    content = marshal(signature, values)
    for end in range(len(content)):
        with pytest.raises(MalformedError):
            unmarshal(signature, content[:end], "<", 100)


@pytest.mark.fuzz
@given(st.sampled_from(VALUES), st.randoms(use_true_random=False))
def test_damaged_values_are_decoded_or_malformed(one: tuple[str, list[Any]], chance: random.Random) -> None:
    signature, values = one
    content = bytearray(marshal(signature, values) + bytes(8))
    for _ in range(3):
        content[chance.randrange(len(content))] = chance.randrange(256)
    try:
        found = unmarshal(signature, bytes(content), "<", 100)
    except MalformedError:
        return
    assert len(found) == len(values)


@pytest.mark.parametrize(
    "signature",
    ["a", "(", "()", "(s", "a{s}", "a{sss}", "z", "s)", "a" * 40 + "s", "(" * 40 + "s" + ")" * 40, "s" * 256],
)
def test_invalid_signatures_are_malformed(signature: str) -> None:
    with pytest.raises(MalformedError):
        types_of(signature)


def test_number_of_values_is_limited() -> None:
    content = marshal("as", [["x"] * 99])
    assert len(unmarshal("as", content, "<", 100)[0]) == 99
    with pytest.raises(MalformedError, match="too many values"):
        unmarshal("as", content, "<", 99)


def test_depth_of_variants_is_limited() -> None:
    nested = Variant("s", "x")
    for _ in range(100):
        nested = Variant("v", nested)
    with pytest.raises(MalformedError, match="nested too deeply"):
        unmarshal("v", marshal("v", [nested]), "<", 1000)


def test_variant_of_several_types_is_malformed() -> None:
    with pytest.raises(MalformedError, match="one type"):
        unmarshal("v", b"\x02yy\0\x01\x02", "<", 10)


def test_array_longer_than_its_message_takes_no_time() -> None:
    with pytest.raises(MalformedError):
        unmarshal("as", b"\xff\xff\xff\x03", "<", 10)


def test_dictionary_with_a_container_as_key_is_malformed() -> None:
    with pytest.raises(MalformedError):
        unmarshal("a{ass}", marshal("a(ass)", [[[["x"], "y"]]]), "<", 10)


@pytest.mark.parametrize("text", ["a\0b", "a\udcffb"])
def test_string_that_a_bus_would_disconnect_us_for_is_escaped(text: str) -> None:
    content = marshal("s", [text])
    assert b"\0" not in content[4:-1]
    assert content[4:-1].decode().startswith("a\\")


def test_signatures_of_strangers_do_not_stay_in_memory() -> None:
    for number in range(4000):
        signature = f"({''.join('yn'[number >> bit & 1] for bit in range(12))})"
        unmarshal("v", marshal("g", [signature]) + bytes(64), "<", 100)
    cache = types_of.cache_info()
    assert cache.maxsize is not None
    assert cache.currsize <= cache.maxsize <= 64
