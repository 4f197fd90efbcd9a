"""Certification paths from a leaf to a trust anchor (RFC 5280 section 6), and checks on one.

`cryptography`'s verifier validates nearly all chains. This module finds out why it refused one, and validates those
that it cannot: with signatures of Ed25519, Ed448 or some forms of RSA-PSS, or with a root without basic constraints.
"""

from collections.abc import Iterator
from itertools import pairwise

from cryptography import x509

from handshaked.errors import Alert, PeerError
from handshaked.tls.x509 import certificates as cert
from handshaked.tls.x509.certificates import Purpose
from handshaked.tls.x509.trust import TrustStore

MAX_NAME_CHECKS = 16384
"""Most comparisons of names with name constraints, which take 2 ms (RFC 5280 section 4.2.1.10)."""

_MAX_DEPTH = 9  # certificates between leaf and anchor that the library's verifier tries

Path = tuple[x509.Certificate, ...]

# Critical extensions that are processed (RFC 5280 section 4.2). Name constraints are not: they refuse the path.
_UNDERSTOOD = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,
)


def check_effort(leaf: x509.Certificate, others: list[x509.Certificate], trust: TrustStore) -> None:
    """Refuse a chain that would take long to verify, because nothing interrupts the verifier.

    `others` must be ``TrustStore.anchored``.
    """
    authorities = list(others)
    candidates = 0
    unfinished = [(leaf, 0)]
    while unfinished:
        last, depth = unfinished.pop()
        issuers = [other for other in others if other.subject == last.issuer]
        anchors = trust.named(last.issuer)
        authorities += anchors
        candidates += len(issuers) + len(anchors)
        if candidates > cert.MAX_SIGNATURE_CHECKS:
            raise PeerError(
                Alert.BAD_CERTIFICATE,
                f"the certificate of {cert.subject(leaf)} has too many possible issuers among the certificates sent and"
                f" trusted (limit: {cert.MAX_SIGNATURE_CHECKS}): send the chain only",
            )
        if depth < _MAX_DEPTH:
            unfinished += [(issuer, depth + 1) for issuer in issuers if not trust.has(issuer)]
    names = sum(cert.count_names(each) for each in (leaf, *others))
    constraints = sum(cert.count_constraints(each) for each in dict.fromkeys(authorities))
    if names * constraints > MAX_NAME_CHECKS:
        raise PeerError(
            Alert.BAD_CERTIFICATE,
            f"the certificate of {cert.subject(leaf)} and its authorities have {names} names and {constraints} name"
            f" constraints: their product must be at most {MAX_NAME_CHECKS}",
        )


def find_paths(leaf: x509.Certificate, others: list[x509.Certificate], trust: TrustStore) -> Iterator[Path]:
    """Yield the paths from `leaf` to an anchor, each certificate signed by the next, shortest first.

    `others` must be ``TrustStore.anchored``: no signature is verified with a key of the peer's choosing.
    """
    budget = cert.MAX_SIGNATURE_CHECKS
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


def check_path(path: Path, purpose: Purpose, now: float) -> None:
    """Raise PeerError if a certificate of a path is invalid at `now` (Unix seconds); the leaf is checked elsewhere."""
    for position, certificate in enumerate(path):
        if position + 1 < len(path):
            cert.check_signature_algorithm(certificate)
        if position:
            cert.check_dates(certificate, now)
            cert.check_key(certificate)
            cert.check_issuer_usage(certificate, purpose)
            _check_authority(certificate, position - 1, is_anchor=position + 1 == len(path))


def _check_authority(certificate: x509.Certificate, below: int, *, is_anchor: bool) -> None:
    """Check RFC 5280 section 6.1.4 (k) to (m); `below` is the number of CAs between this one and the leaf."""
    constraints = cert.basic_constraints_of(certificate)
    if constraints is None and is_anchor and cert.is_plain_root(certificate):
        return
    who = cert.subject(certificate)
    if constraints is None or not constraints.ca:
        raise PeerError(Alert.BAD_CERTIFICATE, f"{who} issued a certificate but is not a certificate authority")
    if constraints.path_length is not None and below > constraints.path_length:
        raise PeerError(
            Alert.BAD_CERTIFICATE, f"{who} has {below} authorities below it, more than its path length allows"
        )


def check_understood(path: Path) -> None:
    """Refuse a path with an extension that only `cryptography`'s verifier can process."""
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
    """Return whether `cryptography`'s verifier cannot accept a path, however good it is.

    It lacks some signature algorithms, and requires basic constraints of roots and X.509 version 3 of clients.
    """
    if path[0].version is x509.Version.v1 or any(cert.is_rarely_signed(*link) for link in pairwise(path)):
        return True
    return len(path) > 1 and cert.is_plain_root(path[-1])
