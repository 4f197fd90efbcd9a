"""Key shares: both sides agree, and invalid shares are an illegal_parameter."""

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.model import Group
from handshaked.tls.key_exchange import answer_key_share, generate_key_share

CURVES = {Group.SECP256R1: 65, Group.SECP384R1: 97, Group.SECP521R1: 133}
SIZES = {
    Group.X25519: (32, 32),
    Group.X448: (56, 56),
    **{group: (size, size) for group, size in CURVES.items()},
    Group.X25519MLKEM768: (1216, 1120),
    Group.SECP256R1MLKEM768: (1249, 1153),
    Group.SECP384R1MLKEM1024: (1665, 1665),
}


@pytest.mark.parametrize("group", Group)
def test_both_sides_agree(group: Group) -> None:
    share = generate_key_share(group)
    public, secret = answer_key_share(group, share.public)
    assert (len(share.public), len(public)) == SIZES[group]
    assert share.finish(public) == secret
    assert generate_key_share(group).public != share.public


# On the curves of RFC 7748 any string of the right length is a point; those of small order are refused.
ANY_STRING = (Group.X25519, Group.X448, Group.X25519MLKEM768)


@pytest.mark.parametrize(
    ("group", "change"),
    [
        (group, change)
        for group in Group
        for change in ("empty", "short", "long", "zeros", "ones")
        if change != "ones" or group not in ANY_STRING
    ],
)
def test_malformed_shares_are_refused(group: Group, change: str) -> None:
    def spoil(share: bytes) -> bytes:
        return {
            "empty": b"",
            "short": share[:-1],
            "long": share + b"\0",
            "zeros": bytes(len(share)),
            "ones": b"\xff" * len(share),
        }[change]

    ours = generate_key_share(group)
    answer, _ = answer_key_share(group, ours.public)
    with pytest.raises(PeerError) as caught:
        answer_key_share(group, spoil(ours.public))
    assert caught.value.alert is Alert.ILLEGAL_PARAMETER
    with pytest.raises(PeerError) as caught:
        ours.finish(spoil(answer))
    assert caught.value.alert is Alert.ILLEGAL_PARAMETER


@pytest.mark.parametrize("group", CURVES)
def test_compressed_points_are_refused(group: Group) -> None:
    public = generate_key_share(group).public
    half = (len(public) - 1) // 2
    compressed = bytes([2 + (public[-1] & 1)]) + public[1 : 1 + half]
    with pytest.raises(PeerError) as caught:
        answer_key_share(group, compressed)
    assert caught.value.alert is Alert.ILLEGAL_PARAMETER


@pytest.mark.parametrize("group", CURVES)
def test_points_off_the_curve_are_refused(group: Group) -> None:
    public = generate_key_share(group).public
    with pytest.raises(PeerError) as caught:
        answer_key_share(group, public[:-1] + bytes([public[-1] ^ 1]))
    assert caught.value.alert is Alert.ILLEGAL_PARAMETER


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_x25519_points_of_small_order_are_refused(point: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        answer_key_share(Group.X25519, point)
    assert caught.value.alert is Alert.ILLEGAL_PARAMETER
