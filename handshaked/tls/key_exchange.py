"""Key exchange groups: a client's key share, and a server's answer to one (RFC 8446 section 4.2.8)."""

from collections.abc import Callable
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handshaked.errors import Alert, PeerError
from handshaked.model import Group

_UNCOMPRESSED = 4
_MLKEM_KEY = 1184
_MLKEM_CIPHERTEXT = 1088
_ECDH = ECDH()
_CURVES: dict[Group, tuple[EllipticCurve, int]] = {
    Group.SECP256R1: (SECP256R1(), 65),
    Group.SECP384R1: (SECP384R1(), 97),
    Group.SECP521R1: (SECP521R1(), 133),
}


class KeyShare(Protocol):
    """A client's half of a key exchange."""

    group: Group
    public: bytes

    def finish(self, share: bytes) -> bytes:
        """The shared secret, from the server's share."""
        ...


def _illegal(group: Group) -> PeerError:
    return PeerError(Alert.ILLEGAL_PARAMETER, f"key share for {group.name.lower()} is not valid")


def _exchange_x25519(private: X25519PrivateKey, share: bytes) -> bytes:
    try:
        # Section 7.4.2: the all-zero shared secret is refused; cryptography raises ValueError for it.
        return private.exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError:
        raise _illegal(Group.X25519) from None


class _X25519Share:
    __slots__ = ("_private", "group", "public")

    def __init__(self, group: Group) -> None:
        self.group = group
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def finish(self, share: bytes) -> bytes:
        return _exchange_x25519(self._private, share)


class _CurveShare:
    __slots__ = ("_curve", "_private", "_size", "group", "public")

    def __init__(self, group: Group) -> None:
        self.group = group
        self._curve, self._size = _CURVES[group]
        self._private = generate_private_key(self._curve)
        self.public = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def finish(self, share: bytes) -> bytes:
        # Section 4.2.8.2: uncompressed points only, and the peer's point must lie on the curve.
        if len(share) != self._size or share[0] != _UNCOMPRESSED:
            raise _illegal(self.group)
        try:
            return self._private.exchange(_ECDH, EllipticCurvePublicKey.from_encoded_point(self._curve, share))
        except ValueError:
            raise _illegal(self.group) from None


class _HybridShare:
    """ML-KEM-768 and an elliptic curve side by side (draft-ietf-tls-ecdhe-mlkem section 4).

    X25519MLKEM768 puts ML-KEM first, SecP256r1MLKEM768 the curve; shares and secrets alike.
    """

    __slots__ = ("_curve", "_private", "group", "public")

    def __init__(self, group: Group) -> None:
        self.group = group
        self._private = MLKEM768PrivateKey.generate()
        self._curve = _SHARES[_HYBRIDS[group]](_HYBRIDS[group])
        self.public = _join(group, self._private.public_key().public_bytes_raw(), self._curve.public)

    def finish(self, share: bytes) -> bytes:
        ciphertext, point = _split(self.group, share, _MLKEM_CIPHERTEXT)
        secret = self._curve.finish(point)
        try:
            return _join(self.group, self._private.decapsulate(ciphertext), secret)
        except ValueError:
            raise _illegal(self.group) from None


_HYBRIDS = {Group.X25519MLKEM768: Group.X25519, Group.SECP256R1MLKEM768: Group.SECP256R1}


def _join(group: Group, mlkem: bytes, curve: bytes) -> bytes:
    return mlkem + curve if group is Group.X25519MLKEM768 else curve + mlkem


def _split(group: Group, share: bytes, mlkem_size: int) -> tuple[bytes, bytes]:
    """The ML-KEM part and the curve's."""
    if group is Group.X25519MLKEM768:
        mlkem, curve = share[:mlkem_size], share[mlkem_size:]
    else:
        curve, mlkem = share[:65], share[65:]
    if len(mlkem) != mlkem_size:
        raise _illegal(group)
    return mlkem, curve


def _respond_hybrid(group: Group, share: bytes) -> tuple[bytes, bytes]:
    mlkem, point = _split(group, share, _MLKEM_KEY)
    public, secret = respond(_HYBRIDS[group], point)
    try:
        encapsulated, ciphertext = MLKEM768PublicKey.from_public_bytes(mlkem).encapsulate()
    except ValueError:
        raise _illegal(group) from None
    return _join(group, ciphertext, public), _join(group, encapsulated, secret)


_SHARES: dict[Group, Callable[[Group], KeyShare]] = {
    Group.X25519: _X25519Share,
    Group.SECP256R1: _CurveShare,
    Group.SECP384R1: _CurveShare,
    Group.SECP521R1: _CurveShare,
    Group.X25519MLKEM768: _HybridShare,
    Group.SECP256R1MLKEM768: _HybridShare,
}


def offer(group: Group) -> KeyShare:
    """A fresh key share for `group`."""
    return _SHARES[group](group)


def respond(group: Group, share: bytes) -> tuple[bytes, bytes]:
    """A server's share and the shared secret, for a client's `share`."""
    if group is Group.X25519:
        private = X25519PrivateKey.generate()
        return private.public_key().public_bytes_raw(), _exchange_x25519(private, share)
    if group in _HYBRIDS:
        return _respond_hybrid(group, share)
    answer = _CurveShare(group)
    return answer.public, answer.finish(share)
