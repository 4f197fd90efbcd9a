"""The codec of extensions: a ``pull_x`` parses and checks a body, a ``push_x`` returns a whole extension."""

import functools
import re
from dataclasses import dataclass

from handshaked.errors import Alert, PeerError
from handshaked.model import SignatureScheme
from handshaked.tls.codec import (
    decode_error,
    known_among,
    pull_vector8,
    pull_vector16,
    push_extension,
    push_u16s,
    push_vector8,
    push_vector16,
    push_vector24,
    unpack_u16s,
    whole_u16s,
    whole_vector8,
    whole_vector16,
)
from handshaked.tls.codepoints import ExtensionType
from handshaked.tls.x509.host_names import is_address

_HOST_NAME = 0
_OCSP = 1
_MIN_RECORD_SIZE_LIMIT = 64
_MIN_BINDER = 32
_SCHEMES = frozenset(SignatureScheme)
_MAX_PROTOCOLS = 256
_MAX_PSKS = 8
_DNS_NAME = re.compile(rb"[A-Za-z0-9_.-]+")


@dataclass(slots=True)
class PskIdentity:
    """An identity that a client offers in pre_shared_key."""

    identity: bytes
    obfuscated_age: int


@dataclass(slots=True)
class OfferedPsks:
    """The pre_shared_key extension of a ClientHello, with its first identities: others are ignored.

    `binders_length` is the number of bytes at the end of the message that binders do not cover.
    """

    identities: list[PskIdentity]
    binders: list[bytes]
    binders_length: int


def pull_server_name(body: bytes) -> str | None:
    """Return the host name (RFC 6066 section 3), or None for an IP address, of either version.

    "Literal IPv4 and IPv6 addresses are not permitted in "HostName"", but clients send them. They get the certificate
    that they would get without the extension.
    """
    names = whole_vector16(body, "server_name", 1)
    name, end = pull_vector16(names, 1, "server_name", 1)
    if names[0] != _HOST_NAME or end != len(names):
        # "MUST NOT contain more than one name of the same name_type", and there is only one type.
        raise PeerError(Alert.ILLEGAL_PARAMETER, "server_name must be one host name")
    if is_address(name.decode("ascii", "replace")):
        return None
    if not _DNS_NAME.fullmatch(name) or len(name) > 255:
        raise PeerError(Alert.ILLEGAL_PARAMETER, "server_name must be a DNS name")
    return name.decode("ascii")


def push_server_name(name: str) -> bytes:
    """Return server_name of a ClientHello."""
    entry = bytes([_HOST_NAME]) + push_vector16(name.encode("ascii"))
    return push_extension(ExtensionType.SERVER_NAME, push_vector16(entry))


def pull_alpn(body: bytes) -> tuple[bytes, ...]:
    """Return the protocols in order (RFC 7301 section 3.1), at most the first 256."""
    what = "application_layer_protocol_negotiation"
    names = whole_vector16(body, what, 2)
    protocols: list[bytes] = []
    at = 0
    while at < len(names) and len(protocols) < _MAX_PROTOCOLS:
        name, at = pull_vector8(names, at, what, 1)
        protocols.append(name)
    # A ClientHello may have 32,000 more. These are checked, but not kept.
    end = len(names)
    while at < end:
        if not names[at]:
            raise decode_error(what)
        at += 1 + names[at]
    if at != end:
        raise decode_error(what)
    return tuple(protocols)


@functools.lru_cache(maxsize=64)
def push_alpn(protocols: tuple[bytes, ...]) -> bytes:
    """Return application_layer_protocol_negotiation."""
    return push_extension(ExtensionType.ALPN, push_vector16(b"".join(map(push_vector8, protocols))))


def pull_supported_versions(body: bytes) -> tuple[int, ...]:
    """Return the versions of a ClientHello (RFC 8446 section 4.2.1)."""
    return unpack_u16s(whole_vector8(body, "supported_versions", 2), "supported_versions")


def pull_u16(body: bytes, what: str) -> int:
    """Return the number that fills the body."""
    if len(body) != 2:
        raise decode_error(what)
    return body[0] << 8 | body[1]


def pull_key_shares(body: bytes) -> dict[int, bytes]:
    """Return the key shares of a ClientHello by group, in order (RFC 8446 section 4.2.8)."""
    entries = whole_vector16(body, "key_share")
    shares: dict[int, bytes] = {}
    at = 0
    while at < len(entries):
        share, end = pull_vector16(entries, at + 2, "key_share")
        group = entries[at] << 8 | entries[at + 1]
        if not share:
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"empty key share for group {group:#06x}")
        if group in shares:
            # "Clients MUST NOT offer multiple KeyShareEntry values for the same group."
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"two key shares for group {group:#06x}")
        shares[group] = share
        at = end
    return shares


def push_key_share(group: int, share: bytes) -> bytes:
    """Return a KeyShareEntry."""
    return group.to_bytes(2) + push_vector16(share)


def pull_key_share(body: bytes) -> tuple[int, bytes]:
    """Return group and share of the KeyShareEntry of a ServerHello."""
    share, end = pull_vector16(body, 2, "key_share", 1)
    if end != len(body):
        raise decode_error("key_share")
    return body[0] << 8 | body[1], share


def pull_psk_modes(body: bytes) -> bytes:
    """Return the PSK key exchange modes, one byte each (RFC 8446 section 4.2.9)."""
    return whole_vector8(body, "psk_key_exchange_modes", 1)


def pull_offered_psks(body: bytes) -> OfferedPsks:
    """Return the PSK identities and binders of a ClientHello (RFC 8446 section 4.2.11)."""
    what = "pre_shared_key"
    offered, binders_start = pull_vector16(body, 0, what, 7)
    identities = []
    at = 0
    while at < len(offered):
        identity, at = pull_vector16(offered, at, what, 1)
        age = offered[at : at + 4]
        at += 4
        if len(age) != 4:
            raise decode_error(what)
        identities.append(PskIdentity(identity, int.from_bytes(age)))
    rest, end = pull_vector16(body, binders_start, what, _MIN_BINDER + 1)
    if end != len(body):
        raise decode_error(what)
    binders = []
    at = 0
    while at < len(rest):
        binder, at = pull_vector8(rest, at, what, _MIN_BINDER)
        binders.append(binder)
    if len(binders) != len(identities):
        # "Each entry in the binders list is computed as an HMAC ...": one for each identity.
        raise PeerError(Alert.ILLEGAL_PARAMETER, "the numbers of PSK binders and identities differ")
    return OfferedPsks(identities[:_MAX_PSKS], binders[:_MAX_PSKS], len(body) - binders_start)


def push_offered_psks(identities: list[PskIdentity], binder_lengths: list[int]) -> bytes:
    """Return pre_shared_key of a ClientHello, with zeros in place of the binders."""
    names = b"".join(push_vector16(each.identity) + each.obfuscated_age.to_bytes(4) for each in identities)
    binders = b"".join(push_vector8(bytes(length)) for length in binder_lengths)
    return push_extension(ExtensionType.PRE_SHARED_KEY, push_vector16(names) + push_vector16(binders))


def pull_status_request(body: bytes) -> bool:
    """Return whether an OCSP response is requested (RFC 6066 section 8)."""
    if not body:
        raise decode_error("status_request")
    if body[0] != _OCSP:
        return False  # another type of status is not parsed
    _, at = pull_vector16(body, 1, "status_request")
    _, at = pull_vector16(body, at, "status_request")
    if at != len(body):
        raise decode_error("status_request")
    return True


def push_ocsp_response(response: bytes) -> bytes:
    """Return status_request of a certificate entry: its CertificateStatus (RFC 8446 section 4.4.2.1)."""
    return push_extension(ExtensionType.STATUS_REQUEST, bytes([_OCSP]) + push_vector24(response))


def pull_compressions(body: bytes) -> tuple[int, ...]:
    """Return the certificate compression algorithms (RFC 8879 section 3)."""
    return unpack_u16s(whole_vector8(body, "compress_certificate", 2), "compress_certificate")


def push_compressions(algorithms: tuple[int, ...]) -> bytes:
    """Return compress_certificate."""
    body = b"".join(each.to_bytes(2) for each in algorithms)
    return push_extension(ExtensionType.COMPRESS_CERTIFICATE, push_vector8(body))


def pull_record_size_limit(body: bytes) -> int:
    """Return the limit on the peer's received records, in bytes (RFC 8449 section 4)."""
    limit = pull_u16(body, "record_size_limit")
    if limit < _MIN_RECORD_SIZE_LIMIT:
        raise PeerError(
            Alert.ILLEGAL_PARAMETER, f"record_size_limit of {limit} bytes, the minimum is {_MIN_RECORD_SIZE_LIMIT}"
        )
    return limit


def pull_cookie(body: bytes) -> bytes:
    """Return the cookie (RFC 8446 section 4.2.2)."""
    return whole_vector16(body, "cookie", 1)


def pull_authorities(body: bytes) -> None:
    """Check the form of certificate_authorities, which are otherwise ignored (RFC 8446 section 4.2.4)."""
    names = whole_vector16(body, "certificate_authorities", 3)
    at, end = 0, len(names)
    while at + 2 < end:
        length = names[at] << 8 | names[at + 1]
        if not length:
            break
        at += 2 + length
    if at != end:
        raise decode_error("certificate_authorities")


def push_authorities(names: tuple[bytes, ...]) -> bytes:
    """Return certificate_authorities."""
    body = push_vector16(b"".join(map(push_vector16, names)))
    return push_extension(ExtensionType.CERTIFICATE_AUTHORITIES, body)


def pull_oid_filters(body: bytes) -> None:
    """Check the form of oid_filters, which are otherwise ignored, as all OIDs are unknown (section 4.2.5)."""
    filters = whole_vector16(body, "oid_filters")
    at = 0
    while at < len(filters):
        _, at = pull_vector8(filters, at, "oid_filters", 1)
        _, at = pull_vector16(filters, at, "oid_filters")


def pull_empty(body: bytes, what: str) -> bool:
    """Check that the body is empty, and return True."""
    if body:
        raise decode_error(what)
    return True


def pull_schemes(body: bytes) -> tuple[int, ...]:
    """Return the signature schemes (RFC 8446 section 4.2.3)."""
    return known_among(whole_u16s(body, "signature_algorithms"), _SCHEMES)


def pull_groups(body: bytes) -> tuple[int, ...]:
    """Return the supported groups (RFC 8446 section 4.2.7)."""
    return whole_u16s(body, "supported_groups")


def push_u16_list(kind: int, numbers: tuple[int, ...]) -> bytes:
    """Return an extension whose body is a list of two-byte numbers."""
    return push_extension(kind, push_u16s(numbers))


def is_dns_name(name: str) -> bool:
    """Return whether `name` can be sent as server_name; an IP address cannot (RFC 6066 section 3)."""
    if not _DNS_NAME.fullmatch(name.encode("ascii", "replace")) or len(name) > 255:
        return False
    return not is_address(name)


def types_of(extensions: list[bytes]) -> frozenset[int]:
    """Return the types of encoded extensions; an item may contain several."""
    kinds = set()
    block = b"".join(extensions)
    at = 0
    while at < len(block):
        kinds.add(block[at] << 8 | block[at + 1])
        at += 4 + (block[at + 2] << 8 | block[at + 3])
    return frozenset(kinds)
