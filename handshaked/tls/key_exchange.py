"""Key exchange in all groups: key shares of clients, and the answers of servers (RFC 8446 section 4.2.8)."""

from collections.abc import Callable
from dataclasses import dataclass
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
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey, X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handshaked.errors import Alert, PeerError
from handshaked.model import Group

_UNCOMPRESSED = 4
_ECDH = ECDH()
_CURVES: dict[Group, tuple[EllipticCurve, int]] = {
    Group.SECP256R1: (SECP256R1(), 65),
    Group.SECP384R1: (SECP384R1(), 97),
    Group.SECP521R1: (SECP521R1(), 133),
}


class KeyShare(Protocol):
    """The client's side of a key exchange."""

    group: Group
    public: bytes

    def finish(self, share: bytes) -> bytes:
        """Return the shared secret for the server's `share`. PeerError if that is invalid."""
        ...


def _illegal(group: Group) -> PeerError:
    return PeerError(Alert.ILLEGAL_PARAMETER, f"invalid key share for {group.name.lower()}")


def _exchange_x25519(private: X25519PrivateKey, share: bytes) -> bytes:
    try:
        # Section 7.4.2: cryptography raises ValueError for the all-zero shared secret.
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


class _X448Share:
    __slots__ = ("_private", "group", "public")

    def __init__(self, group: Group) -> None:
        self.group = group
        self._private = X448PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def finish(self, share: bytes) -> bytes:
        try:
            return self._private.exchange(X448PublicKey.from_public_bytes(share))
        except ValueError:
            raise _illegal(self.group) from None


class _CurveShare:
    __slots__ = ("_curve", "_private", "_size", "group", "public")

    def __init__(self, group: Group) -> None:
        self.group = group
        self._curve, self._size = _CURVES[group]
        self._private = generate_private_key(self._curve)
        self.public = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def finish(self, share: bytes) -> bytes:
        # Section 4.2.8.2: uncompressed points only, which must be on the curve.
        if len(share) != self._size or share[0] != _UNCOMPRESSED:
            raise _illegal(self.group)
        try:
            return self._private.exchange(_ECDH, EllipticCurvePublicKey.from_encoded_point(self._curve, share))
        except ValueError:
            raise _illegal(self.group) from None


@dataclass(frozen=True, slots=True)
class _Hybrid:
    """A hybrid of ML-KEM and an elliptic curve (draft-ietf-tls-ecdhe-mlkem section 4).

    In shares and secrets, X25519MLKEM768 has ML-KEM first, the other groups the curve.
    """

    group: Group
    curve: Group
    point_size: int
    private: type[MLKEM768PrivateKey | MLKEM1024PrivateKey]
    public: type[MLKEM768PublicKey | MLKEM1024PublicKey]
    key_size: int
    ciphertext_size: int
    mlkem_first: bool = False

    def join(self, mlkem: bytes, curve: bytes) -> bytes:
        return mlkem + curve if self.mlkem_first else curve + mlkem

    def split(self, share: bytes, mlkem_size: int) -> tuple[bytes, bytes]:
        """Return the parts of ML-KEM and of the curve."""
        if len(share) != mlkem_size + self.point_size:
            raise _illegal(self.group)
        if self.mlkem_first:
            return share[:mlkem_size], share[mlkem_size:]
        return share[self.point_size :], share[: self.point_size]


_HYBRIDS = {
    each.group: each
    for each in (
        _Hybrid(
            Group.X25519MLKEM768, Group.X25519, 32, MLKEM768PrivateKey, MLKEM768PublicKey, 1184, 1088, mlkem_first=True
        ),
        _Hybrid(Group.SECP256R1MLKEM768, Group.SECP256R1, 65, MLKEM768PrivateKey, MLKEM768PublicKey, 1184, 1088),
        _Hybrid(Group.SECP384R1MLKEM1024, Group.SECP384R1, 97, MLKEM1024PrivateKey, MLKEM1024PublicKey, 1568, 1568),
    )
}


class _HybridShare:
    __slots__ = ("_curve", "_hybrid", "_private", "group", "public")

    def __init__(self, group: Group) -> None:
        self.group = group
        self._hybrid = hybrid = _HYBRIDS[group]
        self._private = hybrid.private.generate()
        self._curve = generate_key_share(hybrid.curve)
        self.public = hybrid.join(self._private.public_key().public_bytes_raw(), self._curve.public)

    def finish(self, share: bytes) -> bytes:
        ciphertext, point = self._hybrid.split(share, self._hybrid.ciphertext_size)
        secret = self._curve.finish(point)
        try:
            return self._hybrid.join(self._private.decapsulate(ciphertext), secret)
        except ValueError:
            raise _illegal(self.group) from None


def _respond_hybrid(hybrid: _Hybrid, share: bytes) -> tuple[bytes, bytes]:
    key, point = hybrid.split(share, hybrid.key_size)
    public, secret = answer_key_share(hybrid.curve, point)
    try:
        encapsulated, ciphertext = hybrid.public.from_public_bytes(key).encapsulate()
    except ValueError:
        raise _illegal(hybrid.group) from None
    return hybrid.join(ciphertext, public), hybrid.join(encapsulated, secret)


_SHARES: dict[Group, Callable[[Group], KeyShare]] = {
    Group.X25519: _X25519Share,
    Group.X448: _X448Share,
    **dict.fromkeys(_CURVES, _CurveShare),
    **dict.fromkeys(_HYBRIDS, _HybridShare),
}


def generate_key_share(group: Group) -> KeyShare:
    """Generate a key share for `group`."""
    return _SHARES[group](group)


def answer_key_share(group: Group, share: bytes) -> tuple[bytes, bytes]:
    """Return the server's share and the shared secret for a client's `share`. PeerError if that is invalid."""
    if group is Group.X25519:
        private = X25519PrivateKey.generate()
        return private.public_key().public_bytes_raw(), _exchange_x25519(private, share)
    if group in _HYBRIDS:
        return _respond_hybrid(_HYBRIDS[group], share)
    answer = generate_key_share(group)
    return answer.public, answer.finish(share)
