"""Ways from a leaf up to a trust anchor, and what is wrong with one.

`cryptography`'s verifier decides about nearly all chains. This module tells why it refused one, and decides about
those that it cannot: with signatures of Ed25519, Ed448 or some kinds of RSA-PSS, or a root without basic constraints.
"""

from collections.abc import Iterator
from itertools import pairwise

from cryptography import x509

from handshaked.errors import Alert, PeerError
from handshaked.tls.x509 import certificates as cert
from handshaked.tls.x509.certificates import Purpose
from handshaked.tls.x509.trust import TrustStore

MAX_SIGNATURE_CHECKS = 40
"""How many signatures are checked in search of ways."""

Path = tuple[x509.Certificate, ...]

# What a critical extension may be without stopping the way (RFC 5280 section 4.2); name constraints do stop it.
_UNDERSTOOD = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,
)


def ways(leaf: x509.Certificate, others: list[x509.Certificate], trust: TrustStore) -> Iterator[Path]:
    """Ways from `leaf` to an anchor, each certificate signed by the next one, shortest first.

    `others` are to be vouched for: no signature is checked with a key of a stranger's choosing.
    """
    budget = MAX_SIGNATURE_CHECKS
    unfinished: list[Path] = [(leaf,)]
    while unfinished:
        path = unfinished.pop(0)
        last = path[-1]
        if trust.has(last):
            yield path
            continue
        candidates = [*trust.named(last.issuer), *(other for other in others if other.subject == last.issuer)]
        for issuer in candidates:
            if issuer in path:
                continue
            budget -= 1
            if budget < 0:
                return
            if cert.is_signed_by(last, issuer):
                unfinished.append((*path, issuer))


def check_way(path: Path, purpose: Purpose, now: float) -> None:
    """Raise PeerError for what is wrong with the certificates of a way, leaf and name aside."""
    for position, certificate in enumerate(path):
        if position + 1 < len(path):
            cert.check_signature_algorithm(certificate)
        if position:
            cert.check_dates(certificate, now)
            cert.check_key(certificate)
            cert.check_issuer_usage(certificate, purpose)
            _check_authority(certificate, position - 1, is_anchor=position + 1 == len(path))


def _check_authority(certificate: x509.Certificate, below: int, *, is_anchor: bool) -> None:
    """RFC 5280 section 6.1.4 (k) to (m); `below` is the number of CAs between this one and the leaf."""
    constraints = cert.basic_constraints_of(certificate)
    if constraints is None and is_anchor and cert.is_plain_root(certificate):
        return
    who = cert.subject(certificate)
    if constraints is None or not constraints.ca:
        raise PeerError(Alert.BAD_CERTIFICATE, f"{who} is no certificate authority, but issued a certificate")
    if constraints.path_length is not None and below > constraints.path_length:
        raise PeerError(Alert.BAD_CERTIFICATE, f"{who} may not have {below} authorities below it (path length)")


def check_understood(path: Path) -> None:
    """Refuse a way with anything that only `cryptography`'s verifier knows to honour."""
    for certificate in path:
        for extension in certificate.extensions:
            constrains = isinstance(extension.value, x509.NameConstraints)
            if constrains or (extension.critical and not isinstance(extension.value, _UNDERSTOOD)):
                raise PeerError(
                    Alert.UNSUPPORTED_CERTIFICATE,
                    f"the certificate of {cert.subject(certificate)} has the extension {extension.oid.dotted_string},"
                    " which is not supported together with rare signatures or a root without basic constraints",
                )


def is_beyond_verifier(path: Path) -> bool:
    """Whether `cryptography`'s verifier cannot accept a way whatever else is in it.

    That is for want of an algorithm, of basic constraints, or of X.509 version 3 in a client's certificate.
    """
    if path[0].version is x509.Version.v1 or any(cert.is_rarely_signed(*link) for link in pairwise(path)):
        return True
    return len(path) > 1 and cert.is_plain_root(path[-1])
