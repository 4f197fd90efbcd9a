"""The readers of certificates, private keys, revocation lists and trust stores: one for each kind of file.

A file is checked and used through the same reader, and no other module parses one. A reader returns all that is in the
file, or raises UnreadableError, whose text names the file, the entry, its line and the reason.
"""

from collections.abc import Iterable, Iterator

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509 import ocsp

from handshaked.errors import UnreadableError
from handshaked.tls.x509 import der
from handshaked.tls.x509.parsing import parse_certificate, readable
from handshaked.tls.x509.pem import PemBlock, pull_blocks
from handshaked.tls.x509.revocation import RevocationList
from handshaked.tls.x509.trust import MAX_ANCHORS, TrustStore

MAX_LIST = 64 * 1024 * 1024
"""Largest file of revocation lists that is parsed, in bytes."""

MAX_BUNDLE = 16 * 1024 * 1024
"""Largest trust store that is parsed, in bytes of PEM."""

_TRUSTED = "TRUSTED CERTIFICATE"  # of OpenSSL: a certificate, and what it is trusted for
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE", _TRUSTED)
_LIST = "X509 CRL"
_PRIVATE_KEY = "PRIVATE KEY"
_PKCS8_VERSION_2 = b"\x02\x01\x01"  # RFC 5958: with the public key, [1]
_PUBLIC_KEY = 0x81
_TRUST_SETTINGS = (0x30, 0xA0)  # uses that the certificate is trusted for, and those that it is rejected for


def read_certificate(encoded: bytes, name: str) -> x509.Certificate:
    """Read one certificate in DER."""
    with readable(name):
        return parse_certificate(encoded)


def read_certificates(content: bytes, name: str) -> list[x509.Certificate]:
    """Read all certificates of a PEM file, at least one; blocks of other kinds are skipped."""
    blocks = [block for block in pull_blocks(content, name) if block.label in _CERTIFICATES]
    if not blocks:
        raise UnreadableError(f"{name}: no certificate in PEM form {_instead_of_certificates(content)}")
    return [_pem_certificate(number, block) for number, block in enumerate(blocks, 1)]


def read_trust_store(content: bytes, name: str) -> TrustStore:
    """Read a trust store: a PEM file of one certificate or more."""
    if len(content) > MAX_BUNDLE:
        raise UnreadableError(f"{name}: {len(content)} bytes, the limit is {MAX_BUNDLE}")
    return _trust_store(read_certificates(content, name), name)


def read_trust_anchors(anchors: Iterable[bytes], name: str) -> TrustStore:
    """Read a trust store from certificates in DER, at least one."""
    certificates = []
    for number, anchor in enumerate(anchors, 1):
        with readable(f"{name}: certificate {number}"):
            certificates.append(parse_certificate(anchor))
            _ = certificates[-1].subject  # parsed at the first look
    return _trust_store(certificates, name)


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
            _as_pkcs8_version_1(encoded), None, unsafe_skip_rsa_key_validation=not check_primes
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


def read_ocsp_response(content: bytes, name: str) -> tuple[int, bool]:
    """Read a successful OCSP response in DER: the certificate's serial number, and whether its status is good."""
    with readable(f"{name}: no successful OCSP response in DER form"):
        response = ocsp.load_der_ocsp_response(content)
        return response.serial_number, response.certificate_status is ocsp.OCSPCertStatus.GOOD


def _pem_certificate(number: int, block: PemBlock) -> x509.Certificate:
    encoded = block.decode()
    with readable(f"{block.place}: certificate {number}"):
        if block.label == _TRUSTED:
            encoded = _without_trust_settings(encoded)
        certificate = parse_certificate(encoded)
        _ = certificate.subject  # parsed at the first look
    return certificate


def _pem_private_key(block: PemBlock, passphrase: bytes | None, *, check_primes: bool) -> PrivateKeyTypes:
    if block.label == _PRIVATE_KEY:
        encoded = _as_pkcs8_version_1(block.decode())
        return serialization.load_der_private_key(encoded, passphrase, unsafe_skip_rsa_key_validation=not check_primes)
    return serialization.load_pem_private_key(block.text, passphrase, unsafe_skip_rsa_key_validation=not check_primes)


def _without_trust_settings(encoded: bytes) -> bytes:
    """Return the certificate of OpenSSL's TRUSTED CERTIFICATE; ValueError if it is not trusted for everything."""
    end = der.pull_element(encoded).end
    if end < len(encoded):
        settings = der.pull_element(encoded, end)
        if settings.begin < settings.end and encoded[settings.begin] in _TRUST_SETTINGS:
            raise ValueError("OpenSSL's trust settings are not supported: remove them with openssl x509 -in FILE")
    return encoded[:end]


def _trust_store(anchors: list[x509.Certificate], name: str) -> TrustStore:
    if not 0 < len(anchors) <= MAX_ANCHORS:
        raise UnreadableError(f"{name}: a trust store has 1 to {MAX_ANCHORS} certificates, this one has {len(anchors)}")
    with readable(name):
        return TrustStore(anchors)


def _revocation_list(encoded: bytes, place: str) -> RevocationList:
    with readable(f"{place}: the revocation list cannot be used"):
        return RevocationList(x509.load_der_x509_crl(encoded))


def _as_pkcs8_version_1(encoded: bytes) -> bytes:
    """Return a key of RFC 5958's version 2 as version 1 (RFC 5208), without its public key; any other as it is.

    `cryptography` does not read version 2, in which RFC 8410 section 10.3 has Ed25519 keys.
    """
    try:
        elements = list(_elements_of(encoded))
    except ValueError:
        return encoded
    if not elements or elements[0] != _PKCS8_VERSION_2:
        return encoded
    kept = [element for element in elements[1:] if element[0] != _PUBLIC_KEY]
    return der.push_sequence(b"\x02\x01\x00" + b"".join(kept))


def _elements_of(encoded: bytes) -> Iterator[bytes]:
    """Yield the encoded elements of a SEQUENCE."""
    outer = der.pull_element(encoded)
    at = outer.begin
    while at < outer.end:
        end = der.pull_element(encoded, at).end
        yield encoded[at:end]
        at = end


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
