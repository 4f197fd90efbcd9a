"""The parameters of RSASSA-PSS in certificates and keys (RFC 4055 section 3.1), which `cryptography` does not show."""

from dataclasses import dataclass

from handshaked.tls.x509 import der

_MGF1 = bytes.fromhex("06092a864886f70d010108")
_DIGESTS = {
    bytes.fromhex("06052b0e03021a"): "sha1",
    bytes.fromhex("0609608648016503040204"): "sha224",
    bytes.fromhex("0609608648016503040201"): "sha256",
    bytes.fromhex("0609608648016503040202"): "sha384",
    bytes.fromhex("0609608648016503040203"): "sha512",
}
_HASH, _MASK, _SALT, _TRAILER = 0xA0, 0xA1, 0xA2, 0xA3
_MAX_SALT_BYTES = 2


@dataclass(frozen=True, slots=True)
class PssParameters:
    """The digest, the digest of MGF1, and the length of the salt in bytes; in a key, the least length."""

    digest: str = "sha1"
    mask_digest: str = "sha1"
    salt: int = 20

    def __str__(self) -> str:
        return f"{self.digest}, MGF1 with {self.mask_digest} and a salt of {self.salt} bytes or more"

    def obeys(self, limits: "PssParameters") -> bool:
        """Return whether a signature with these parameters may be made with a key of these `limits`."""
        return (self.digest, self.mask_digest) == (limits.digest, limits.mask_digest) and self.salt >= limits.salt


def pull_algorithm(encoded: bytes) -> PssParameters | None:
    """Return the parameters in an AlgorithmIdentifier for RSASSA-PSS, None if it has none; ValueError if malformed."""
    _, *parameters = der.parts(encoded)
    if not parameters:
        return None
    if len(parameters) > 1 or parameters[0][0] != der.SEQUENCE:
        raise ValueError("malformed parameters of RSASSA-PSS")
    # Fields that are left out have the defaults of RFC 4055, which are those of PssParameters.
    digest, mask_digest, salt = "sha1", "sha1", 20
    last = 0
    for field in der.parts(parameters[0]):
        if field[0] <= last:
            raise ValueError("malformed parameters of RSASSA-PSS")
        last = field[0]
        (value,) = der.parts(field)
        if last == _HASH:
            digest = _digest(value)
        elif last == _MASK:
            mask_digest = _mask_digest(value)
        elif last == _SALT:
            salt = _number(value)
        elif last != _TRAILER or _number(value) != 1:
            raise ValueError("unknown parameters of RSASSA-PSS")
    return PssParameters(digest, mask_digest, salt)


def _digest(algorithm: bytes) -> str:
    oid, *_ = der.parts(algorithm)
    return _DIGESTS.get(oid, "an unknown digest")


def _mask_digest(algorithm: bytes) -> str:
    function, *parameters = der.parts(algorithm)
    if function != _MGF1 or len(parameters) != 1:
        raise ValueError("RSASSA-PSS with another mask generation function than MGF1")
    return _digest(parameters[0])


def _number(encoded: bytes) -> int:
    element = der.pull_element(encoded)
    content = encoded[element.begin : element.end]
    if element.tag != der.INTEGER or not 0 < len(content) <= _MAX_SALT_BYTES or content[0] & 0x80:
        raise ValueError("malformed or excessive number in the parameters of RSASSA-PSS")
    return int.from_bytes(content)
