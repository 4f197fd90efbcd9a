"""Private keys that take an excessive amount of work to decrypt."""

import base64

_PBES2, _PBKDF2, _AES256_CBC, _HMAC_SHA256 = map(
    bytes.fromhex, ("2a864886f70d01050d", "2a864886f70d01050c", "60864801650304012a", "2a864886f70d0209")
)


def der(tag: int, *parts: bytes) -> bytes:
    """Encode a DER element of less than 256 bytes."""
    content = b"".join(parts)
    return bytes([tag, *([0x81] if len(content) > 127 else []), len(content)]) + content


def encrypted_key(iterations: int) -> bytes:
    """Return a PKCS #8 key encrypted with AES and `iterations` of PBKDF2 (RFC 8018 A.2, A.4); its content is zero."""
    count = der(2, iterations.to_bytes(iterations.bit_length() // 8 + 1, "big"))
    derivation = der(
        0x30, der(6, _PBKDF2), der(0x30, der(4, bytes(16)), count, der(0x30, der(6, _HMAC_SHA256), der(5)))
    )
    cipher = der(0x30, der(6, _AES256_CBC), der(4, bytes(16)))
    info = der(0x30, der(0x30, der(6, _PBES2), der(0x30, derivation, cipher)), der(4, bytes(64)))
    return (
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + base64.encodebytes(info) + b"-----END ENCRYPTED PRIVATE KEY-----\n"
    )
