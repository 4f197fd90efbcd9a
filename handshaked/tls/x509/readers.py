"""The readers of certificates, private keys, revocation lists and trust stores: one for each kind of file.

A file is checked and used through the same reader, and no other module parses one. A reader returns all that is in the
file, or raises UnreadableError, whose text names the file, the entry, its line and the reason. Of a trust store, it
leaves out the certificates that cannot be used, and returns such a text for each.
"""

from collections.abc import Callable, Iterable

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509 import ocsp

from handshaked.errors import UnreadableError
from handshaked.tls.x509 import der
from handshaked.tls.x509.parsing import MALFORMED, parse_certificate, readable
from handshaked.tls.x509.pem import PemBlock, pull_blocks
from handshaked.tls.x509.pkcs8 import as_version_1, decrypt, is_version_2
from handshaked.tls.x509.raw_names import raw_subject
from handshaked.tls.x509.revocation import RevocationList
from handshaked.tls.x509.stapling import CertificateStatus
from handshaked.tls.x509.trust import MAX_ANCHORS, TrustStore

MAX_LIST = 64 * 1024 * 1024
"""Largest file of revocation lists that is parsed, in bytes."""

MAX_BUNDLE = 16 * 1024 * 1024
"""Largest trust store that is parsed, in bytes of PEM."""

_TRUSTED = "TRUSTED CERTIFICATE"  # of OpenSSL: a certificate, and what it is trusted for
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE", _TRUSTED)
_LIST = "X509 CRL"
_PRIVATE_KEY = "PRIVATE KEY"
_ENCRYPTED = "ENCRYPTED PRIVATE KEY"
_TRUST_SETTINGS = (0x30, 0xA0)  # uses that the certificate is trusted for, and those that it is rejected for


def read_certificate(encoded: bytes, name: str) -> x509.Certificate:
    """Read one certificate in DER."""
    with readable(name):
        return parse_certificate(encoded)


def read_certificates(content: bytes, name: str) -> list[x509.Certificate]:
    """Read all certificates of a PEM file, at least one; blocks of other kinds are skipped."""
    return [
        _certificate(_pem_content(number, block), f"{block.place}: certificate {number}")
        for number, block in enumerate(_certificate_blocks(content, name), 1)
    ]


def read_trust_store(content: bytes, name: str) -> TrustStore:
    """Read a trust store: a PEM file with at least one certificate that can be used."""
    if len(content) > MAX_BUNDLE:
        raise UnreadableError(f"{name}: {len(content)} bytes, the limit is {MAX_BUNDLE}")
    blocks = enumerate(_certificate_blocks(content, name), 1)
    return _trust_store(
        [
            (f"{block.place}: certificate {number}", lambda number=number, block=block: _pem_content(number, block))  # type: ignore[misc] # bound now
            for number, block in blocks
        ],
        name,
    )


def read_trust_anchors(anchors: Iterable[bytes], name: str) -> TrustStore:
    """Read a trust store from certificates in DER, of which at least one can be used."""
    return _trust_store(
        [(f"{name}: certificate {number}", lambda anchor=anchor: anchor) for number, anchor in enumerate(anchors, 1)],  # type: ignore[misc] # bound now
        name,
    )


def read_revocation_lists(content: bytes, name: str) -> list[RevocationList]:
    """Read all revocation lists of a file: one in DER, or one or more in PEM, where certificates between are skipped.

    Anything else in a file of lists is refused: it may be a list that would be missed.
    """
    if len(content) > MAX_LIST:
        raise UnreadableError(f"{name}: {len(content)} bytes, the limit is {MAX_LIST}")
    if der.is_one_sequence(content):
        return [_revocation_list(content, name)]
    lists: list[RevocationList] = []
    for block in pull_blocks(content, name):
        if block.label == _LIST:
            lists.append(_revocation_list(block.decode(), f"{block.place}: revocation list {len(lists) + 1}"))
        elif block.label not in _CERTIFICATES:
            raise UnreadableError(f"{block.place}: expected a revocation list ({_LIST}), found: {block.label}")
    if not lists:
        raise UnreadableError(
            f"{name}: no revocation list: the file is neither DER, nor PEM with -----BEGIN {_LIST}-----"
        )
    return lists


def read_private_key(
    content: bytes, passphrase: bytes | None, name: str, *, check_primes: bool = True
) -> PrivateKeyTypes:
    """Read the private key of a PEM file: PKCS#8, SEC1 or PKCS#1, encrypted or not; blocks of other kinds are skipped.

    `check_primes`: verify that an RSA key's primes are prime, which takes seconds for a large key.
    """
    keys = [block for block in pull_blocks(content, name) if block.label.endswith(_PRIVATE_KEY)]
    if not keys:
        raise UnreadableError(f"{name}: no readable private key in PEM form (there is no -----BEGIN PRIVATE KEY-----)")
    if len(keys) > 1:
        lines = ", ".join(str(block.line) for block in keys)
        raise UnreadableError(f"{name}: {len(keys)} private keys (lines {lines}): keep one in the file")
    wrong = "" if passphrase is None else " or the passphrase is wrong"
    with readable(f"{name}: no readable private key in PEM form{wrong} (line {keys[0].line})"):
        try:
            return _pem_private_key(keys[0], passphrase, check_primes=check_primes)
        except TypeError:
            hint = "is encrypted: give its passphrase file" if passphrase is None else "is not encrypted"
            raise UnreadableError(f"{name}: the private key {hint}") from None


def read_der_private_key(encoded: bytes, name: str, *, check_primes: bool = True) -> PrivateKeyTypes:
    """Read a private key in DER that is not encrypted; `check_primes` as above."""
    with readable(name):
        return serialization.load_der_private_key(
            as_version_1(encoded), None, unsafe_skip_rsa_key_validation=not check_primes
        )


def read_pkcs12(content: bytes, passphrase: bytes | None, name: str) -> tuple[list[x509.Certificate], PrivateKeyTypes]:
    """Read a PKCS#12 file that holds a private key with its certificate: the chain, leaf first, and the key."""
    if passphrase is not None and (b"\0" in passphrase or not _is_utf8(passphrase)):
        # RFC 7292 appendix B.1: a passphrase is a string of Unicode characters that ends with a NUL.
        raise UnreadableError(f"{name}: the passphrase of a PKCS#12 file has to be UTF-8 text without NUL")
    with readable(f"{name}: not readable as PKCS#12, or a wrong passphrase"):
        store = pkcs12.load_pkcs12(content, passphrase)
    if store.key is None or store.cert is None:
        raise UnreadableError(f"{name}: holds no private key with its certificate")
    return [store.cert.certificate, *(extra.certificate for extra in store.additional_certs)], store.key


def read_ocsp_response(content: bytes, name: str) -> list[CertificateStatus]:
    """Read a successful OCSP response in DER: the statuses of the certificates that it is about."""
    with readable(f"{name}: no successful OCSP response in DER form"):
        return [CertificateStatus.of(one) for one in ocsp.load_der_ocsp_response(content).responses]


def _certificate_blocks(content: bytes, name: str) -> list[PemBlock]:
    blocks = [block for block in pull_blocks(content, name) if block.label in _CERTIFICATES]
    if not blocks:
        raise UnreadableError(f"{name}: no certificate in PEM form {_instead_of_certificates(content)}")
    return blocks


def _pem_content(number: int, block: PemBlock) -> bytes:
    """Return the DER of the certificate `number` of a file."""
    encoded = block.decode()
    if block.label == _TRUSTED:
        with readable(f"{block.place}: certificate {number}"):
            return _without_trust_settings(encoded)
    return encoded


def _certificate(encoded: bytes, place: str) -> x509.Certificate:
    with readable(place):
        certificate = parse_certificate(encoded)
        _ = certificate.subject, certificate.issuer  # parsed at the first look
    return certificate


def _pem_private_key(block: PemBlock, passphrase: bytes | None, *, check_primes: bool) -> PrivateKeyTypes:
    skip = not check_primes
    if block.label == _PRIVATE_KEY:
        return serialization.load_der_private_key(
            as_version_1(block.decode()), passphrase, unsafe_skip_rsa_key_validation=skip
        )
    try:
        return serialization.load_pem_private_key(block.text, passphrase, unsafe_skip_rsa_key_validation=skip)
    except ValueError:
        inner = _encrypted_version_2(block, passphrase)
        if inner is None:
            raise
        return serialization.load_der_private_key(inner, None, unsafe_skip_rsa_key_validation=skip)


def _encrypted_version_2(block: PemBlock, passphrase: bytes | None) -> bytes | None:
    """Return a key of PKCS#8 version 2 in an encrypted `block` as version 1; None if there is no such key."""
    if block.label != _ENCRYPTED or passphrase is None:
        return None
    try:
        inner = decrypt(block.decode(), passphrase)
    except MALFORMED:
        return None
    return as_version_1(inner) if is_version_2(inner) else None


def _without_trust_settings(encoded: bytes) -> bytes:
    """Return the certificate of OpenSSL's TRUSTED CERTIFICATE; ValueError if it is not trusted for everything."""
    end = der.pull_element(encoded).end
    if end < len(encoded):
        settings = der.pull_element(encoded, end)
        if settings.begin < settings.end and encoded[settings.begin] in _TRUST_SETTINGS:
            raise ValueError("OpenSSL's trust settings are not supported: remove them with openssl x509 -in FILE")
    return encoded[:end]


def _trust_store(entries: list[tuple[str, Callable[[], bytes]]], name: str) -> TrustStore:
    """Return a trust store of the certificates that can be used; each entry is its place, and what decodes it."""
    if not 0 < len(entries) <= MAX_ANCHORS:
        raise UnreadableError(f"{name}: a trust store has 1 to {MAX_ANCHORS} certificates, this one has {len(entries)}")
    anchors, left_out = [], []
    for place, decode in entries:
        subject = ""
        try:
            encoded = decode()
            subject = raw_subject(encoded)
            anchors.append(_certificate(encoded, place))
        except UnreadableError as error:
            left_out.append(f"{error} ({subject})" if subject else str(error))
    if not anchors:
        raise UnreadableError(left_out[0])
    with readable(name):
        return TrustStore(anchors, left_out)


def _revocation_list(encoded: bytes, place: str) -> RevocationList:
    with readable(f"{place}: the revocation list cannot be used"):
        return RevocationList(x509.load_der_x509_crl(encoded))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _instead_of_certificates(content: bytes) -> str:
    """Say what `content`, which has no certificate in PEM form, seems to be."""
    if b"PRIVATE KEY-----" in content:
        return "but a private key"
    if content.startswith(bytes([der.SEQUENCE])):
        return "but perhaps in DER: openssl x509 -inform DER converts it"
    return "(nothing in it begins with -----BEGIN CERTIFICATE-----)"
