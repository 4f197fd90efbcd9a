"""Credentials: certificates and private keys of all supported file formats, checked, and converted to one form."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import inf
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from handshaked.errors import RefusedError, UnsupportedKeyError
from handshaked.model import MAX_HANDSHAKE_MESSAGE, KeyType
from handshaked.tls.parameters import Credential
from handshaked.tls.private_key import PrivateKeySigner
from handshaked.tls.x509.certificates import MAX_CERTIFICATES, Purpose, may_sign_handshakes, purposes_of
from handshaked.tls.x509.der import is_one_sequence
from handshaked.tls.x509.host_names import covers
from handshaked.tls.x509.keys import check_strength, key_type_of, plain_key_type
from handshaked.tls.x509.parsing import MALFORMED, readable
from handshaked.tls.x509.readers import (
    read_certificate,
    read_certificates,
    read_der_private_key,
    read_ocsp_response,
    read_pkcs12,
    read_private_key,
)
from handshaked.tls.x509.stapling import CertificateStatus, requires_staple

MAX_CHAIN = MAX_CERTIFICATES  # the most that our own client accepts from a peer
MAX_CHAIN_BYTES = MAX_HANDSHAKE_MESSAGE - 4 - 5 * MAX_CHAIN  # the Certificate message around them: RFC 8446 4.4.2

_LAST = datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp()
"""The end of what is to last for ever (RFC 5280 section 4.1.2.5), in Unix seconds; a grace period may end later."""


@dataclass(frozen=True, slots=True)
class LoadedCredential:
    """A checked credential: certificates in DER, leaf first, and the key in unencrypted PKCS#8 DER.

    Times are in Unix seconds. ``names`` are the leaf's DNS names, ``purposes`` the roles that it can be presented in.
    ``requires_staple``: clients refuse the leaf without an OCSP response (must-staple), which is valid from
    ``staple_begin`` to ``staple_end``.
    """

    chain: tuple[bytes, ...] = field(repr=False)
    key: bytes = field(repr=False)
    key_type: KeyType
    leaf_digest: bytes
    subject: str
    names: tuple[str, ...]
    purposes: frozenset[Purpose]
    not_before: float
    not_after: float
    requires_staple: bool = False
    ocsp_response: bytes | None = field(default=None, repr=False)
    staple_begin: float = -inf
    staple_end: float = inf

    @property
    def chain_digest(self) -> bytes:
        """The SHA-256 of what is sent to peers."""
        return chain_digest(self.chain, self.ocsp_response)


def load_pem(
    certificate: bytes,
    key: bytes,
    passphrase: bytes | None = None,
    *,
    names: tuple[str, str] = ("certificate", "key"),
    check_primes: bool = True,
) -> LoadedCredential:
    """Load a credential from a PEM chain, leaf first, and a PEM key: PKCS#8, SEC1 or PKCS#1, encrypted or not.

    `names` are the files' in error texts. `check_primes`: verify that an RSA key's primes are prime, which takes
    seconds for a large key. RefusedError if one of them cannot be read, or if they do not match.
    """
    chain = read_certificates(certificate, names[0])
    private_key = read_private_key(key, passphrase, names[1], check_primes=check_primes)
    return _checked(chain, private_key, names)


def load_pkcs12(data: bytes, passphrase: bytes | None = None, *, name: str = "PKCS#12 file") -> LoadedCredential:
    """Load a credential from a PKCS#12 file that contains a key and its chain; RefusedError as above."""
    chain, private_key = read_pkcs12(data, passphrase, name)
    return _checked(chain, private_key, (name, name))


def load_keys(certificate: bytes, key: bytes) -> LoadedCredential:
    """Load a credential from the payloads of two kernel keys, each in DER or PEM; RefusedError as above."""
    names = "certificate", "private key"
    der = is_one_sequence(certificate)
    chain = [read_certificate(certificate, names[0])] if der else read_certificates(certificate, names[0])
    der = is_one_sequence(key)
    private_key = read_der_private_key(key, names[1]) if der else read_private_key(key, None, names[1])
    return _checked(chain, private_key, names)


def with_ocsp_response(credential: LoadedCredential, response: bytes, *, name: str) -> LoadedCredential:
    """Return `credential` with an OCSP response (DER) to staple; RefusedError if it is not a good one for the leaf."""
    status = staple_status(credential.chain, response, name)
    if not status.is_good:
        raise RefusedError(f"{name}: the OCSP response says that the certificate {credential.subject} is not good")
    return replace(credential, ocsp_response=response, staple_begin=status.begin, staple_end=status.end)


def staple_status(chain: tuple[bytes, ...], response: bytes, name: str) -> CertificateStatus:
    """Return what the OCSP response `name` says of the leaf of `chain`; RefusedError if it says nothing of it."""
    statuses = read_ocsp_response(response, name)
    leaf, *others = (read_certificate(one, "certificate") for one in chain)
    with readable(name):
        issuer = next((other for other in others if other.subject == leaf.issuer), None)
        own = [one for one in statuses if one.serial_number == leaf.serial_number]
        found = next((one for one in own if one.is_by_issuer(chain[0], issuer)), None)
    if found is None:
        wrong = "names another issuer than that of" if own else "is for another certificate than"
        raise RefusedError(f"{name}: the OCSP response {wrong} {_subject(leaf)}: request one for this certificate")
    return found


def check_validity(credential: LoadedCredential, now: float) -> None:
    """Refuse a leaf or an OCSP response that is expired or not yet valid at `now` (Unix seconds).

    Also refuse a leaf that requires a response and has none (RFC 7633).
    """
    if now > credential.not_after:
        raise RefusedError(f"the certificate {credential.subject} expired on {date_and_time(credential.not_after)}")
    if now < credential.not_before:
        raise RefusedError(
            f"the certificate {credential.subject} is not valid before {date_and_time(credential.not_before)}"
        )
    if credential.requires_staple and credential.ocsp_response is None:
        raise RefusedError(
            f"the certificate {credential.subject} requires a stapled OCSP response (must-staple, RFC 7633): clients"
            " refuse it without one; give one with ocsp, or reissue the certificate without must-staple"
        )
    if now > credential.staple_end:
        end = date_and_time(credential.staple_end)
        raise RefusedError(
            f"the OCSP response for {credential.subject} has been out of date since {end}: get a current one from the"
            " certificate's authority"
        )
    if now < credential.staple_begin:
        begin = date_and_time(credential.staple_begin)
        raise RefusedError(f"the OCSP response for {credential.subject} is not valid before {begin}")


def check_purpose(credential: LoadedCredential, purpose: Purpose) -> None:
    """Refuse a leaf that peers do not accept from one in the role of `purpose`."""
    if purpose not in credential.purposes:
        raise RefusedError(
            f"the certificate {credential.subject} is not for {purpose.label}s by its extended key usage: reissue it"
        )


def uncovered_names(names: Iterable[str], server_names: Iterable[str]) -> list[str]:
    """Return those of `server_names` that none of the DNS `names` of a certificate covers (RFC 9525 section 6.3)."""
    return [name for name in server_names if not any(covers(presented, name) for presented in names)]


@dataclass(frozen=True, slots=True)
class LeafSummary:
    """Facts about a leaf that matter to those who serve it; ``not_after`` is in Unix seconds."""

    subject: str
    names: tuple[str, ...]
    is_for_servers: bool
    requires_staple: bool
    not_after: float


def leaf_summary(encoded: bytes) -> LeafSummary:
    """Return the summary of a leaf in DER that was loaded before."""
    leaf = read_certificate(encoded, "certificate")
    with readable("certificate"):
        return LeafSummary(
            _subject(leaf),
            _dns_names(leaf),
            Purpose.SERVER in purposes_of(leaf),
            requires_staple(leaf),
            leaf.not_valid_after_utc.timestamp(),
        )


def chain_digest(chain: tuple[bytes, ...], ocsp_response: bytes | None) -> bytes:
    """Return the SHA-256 of what is sent to peers: all certificates, and the stapled response."""
    digest = hashlib.sha256()
    for part in (*chain, ocsp_response or b""):
        digest.update(hashlib.sha256(part).digest())
    return digest.digest()


def open_credential(chain: tuple[bytes, ...], key: bytes, key_type: KeyType, ocsp: bytes | None = None) -> Credential:
    """Return the credential for handshakes from the parts of a ``LoadedCredential``, which was checked before."""
    private_key = read_der_private_key(key, "private key", check_primes=False)
    signer = PrivateKeySigner(private_key)
    if ocsp is None:
        return Credential(chain, signer, key_type)
    status = staple_status(chain, ocsp, "OCSP response")
    return Credential(chain, signer, key_type, ocsp, (status.begin, status.end))


def _checked(chain: list[x509.Certificate], key: PrivateKeyTypes, names: tuple[str, str]) -> LoadedCredential:
    _check_key_type(key, names[1])
    if len(chain) > MAX_CHAIN:
        raise RefusedError(f"{names[0]}: {len(chain)} certificates, the limit is {MAX_CHAIN}")
    der = tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in chain)
    size = sum(map(len, der))
    if size > MAX_CHAIN_BYTES:
        raise RefusedError(f"{names[0]}: {size} bytes of certificates, the limit is {MAX_CHAIN_BYTES}")
    if isinstance(key, rsa.RSAPrivateKey) and not _is_consistent(key.private_numbers()):
        raise RefusedError(f"{names[1]}: inconsistent RSA key parameters")
    with readable(f"{names[0]}: certificate"):
        return _loaded(chain, der, key, names)


def _loaded(
    chain: list[x509.Certificate],
    encoded: tuple[bytes, ...],
    key: PrivateKeyTypes,
    names: tuple[str, str],
) -> LoadedCredential:
    leaf = chain[0]
    if _public_bytes(leaf.public_key()) != _public_bytes(key.public_key()):
        others = any(_public_bytes(other.public_key()) == _public_bytes(key.public_key()) for other in chain[1:])
        hint = "; it matches a later certificate of the file: put the leaf first" if others else ""
        raise RefusedError(f"{names[1]}: the private key does not match the certificate {_subject(leaf)}{hint}")
    return LoadedCredential(
        chain=encoded,
        key=key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        key_type=_usable_key_type(leaf, names[0]),
        leaf_digest=leaf.fingerprint(hashes.SHA256()),
        subject=_subject(leaf),
        names=_dns_names(leaf),
        purposes=purposes_of(leaf),
        requires_staple=requires_staple(leaf),
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )


def _check_key_type(key: PrivateKeyTypes, name: str) -> None:
    try:
        plain_key_type(key.public_key())
        check_strength(key.public_key())
    except UnsupportedKeyError as error:
        raise RefusedError(f"{name}: {error}") from None


def _usable_key_type(leaf: x509.Certificate, name: str) -> KeyType:
    """Return the type of the leaf's key; RefusedError if the leaf itself says that it is not for TLS."""
    if not may_sign_handshakes(leaf):
        raise RefusedError(
            f"{name}: the certificate {_subject(leaf)} has a key usage without digitalSignature: its key may not sign"
            " handshakes (RFC 8446 section 4.4.2.2); reissue it"
        )
    if not purposes_of(leaf):
        raise RefusedError(
            f"{name}: the certificate {_subject(leaf)} is for neither servers nor clients by its extended key usage:"
            " reissue it with serverAuth or clientAuth"
        )
    try:
        return key_type_of(leaf)
    except UnsupportedKeyError as error:
        raise RefusedError(f"{name}: the certificate {_subject(leaf)}: {error}") from None


def _is_consistent(key: rsa.RSAPrivateNumbers) -> bool:
    """Return whether the parameters of an RSA key are consistent (RFC 8017 section 3.2); primality is not tested.

    With inconsistent parameters, the key's author could make a signature take any time.
    """
    n, p, q = key.public_numbers.n, key.p, key.q
    return (
        1 < p < n
        and 1 < q < n
        and p * q == n
        and 0 < key.d < n
        and key.dmp1 == key.d % (p - 1)
        and key.dmq1 == key.d % (q - 1)
        and 0 < key.iqmp < p
        and key.iqmp * q % p == 1
    )


def _public_bytes(key: object) -> bytes:
    encoded = cast("rsa.RSAPublicKey", key).public_bytes(  # every public key type has this method
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return bytes(encoded)


def _dns_names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, *MALFORMED):
        return ()
    return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))


def _subject(leaf: x509.Certificate) -> str:
    subject = leaf.subject.rfc4514_string()[:200] or "(no subject)"
    return subject if subject.isprintable() else subject.encode("unicode_escape").decode()


def date_and_time(timestamp: float) -> str:
    """Return a Unix time in seconds for people; a time after the year 9999 is never."""
    return "never" if timestamp > _LAST else datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M UTC")
