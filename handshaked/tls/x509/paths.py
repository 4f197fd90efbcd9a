"""Certification paths from a leaf to a trust anchor: how to find one, and the checks on one (RFC 5280 section 6)."""

from collections.abc import Iterator

from cryptography import x509

from handshaked.errors import Alert, PeerError
from handshaked.tls.x509 import certificates as cert
from handshaked.tls.x509.certificates import Path, Purpose
from handshaked.tls.x509.name_constraints import check_names
from handshaked.tls.x509.trust import TrustStore

MAX_NAME_CHECKS = 16384
"""Most comparisons of names with name constraints, which take 8 ms (RFC 5280 section 4.2.1.10)."""


def check_effort(leaf: x509.Certificate, others: list[x509.Certificate], trust: TrustStore) -> None:
    """Refuse certificates with so many names and name constraints that comparing them would take long.

    `others` must be ``TrustStore.anchored``. Nothing interrupts verification, so other handshakes wait for it.
    """
    anchors = [anchor for each in (leaf, *others) for anchor in trust.named(each.issuer)]
    names = sum(cert.count_names(each) for each in (leaf, *others))
    constraints = sum(cert.count_constraints(each) for each in dict.fromkeys((*others, *anchors)))
    if names * constraints > MAX_NAME_CHECKS:
        raise PeerError(
            Alert.BAD_CERTIFICATE,
            f"the certificate of {cert.subject(leaf)} and its authorities have {names} names and {constraints} name"
            f" constraints: their product must be at most {MAX_NAME_CHECKS}",
        )


def find_paths(leaf: x509.Certificate, others: list[x509.Certificate], trust: TrustStore) -> Iterator[Path]:
    """Yield the paths from `leaf` to an anchor, each certificate signed by the next; first those straight to an anchor.

    `others` must be ``TrustStore.anchored``: no signature is verified with a key of the peer's choosing. PeerError if
    more than ``MAX_SIGNATURE_CHECKS`` signatures would have to be verified for the next path.
    """
    checks = 0
    unfinished: list[Path] = [(leaf,)]
    while unfinished:
        path = unfinished.pop()
        last = path[-1]
        if trust.has(last):
            yield path
            continue
        named = dict.fromkeys((*trust.named(last.issuer), *(each for each in others if each.subject == last.issuer)))
        candidates = [each for each in named if each not in path]
        candidates.sort(key=lambda each: (trust.has(each), bool(trust.named(each.issuer))))  # the best is popped first
        for issuer in candidates:
            checks += 1
            if checks > cert.MAX_SIGNATURE_CHECKS:
                raise PeerError(
                    Alert.BAD_CERTIFICATE,
                    f"the certificate of {cert.subject(leaf)} has too many possible issuers among the certificates sent"
                    f" and trusted (limit: {cert.MAX_SIGNATURE_CHECKS}): send the chain only",
                )
            if cert.is_signed_by(last, issuer):
                unfinished.append((*path, issuer))


def check_path(path: Path, purpose: Purpose, now: float) -> None:
    """Raise PeerError if a path is invalid for `purpose` at `now` (Unix seconds): RFC 5280 section 6.1.

    ``find_paths`` has checked its signatures. Rules for the leaf alone are checked elsewhere.
    """
    for certificate in path[:-1]:
        cert.check_signature_algorithm(certificate)
    for position, certificate in enumerate(path[1:], 1):
        cert.check_dates(certificate, now)
        cert.check_key(certificate)
        cert.check_issuer_usage(certificate, purpose)
        cert.check_critical_extensions(certificate)
        # Section 6.1.4 (l): those that issued themselves do not count.
        below = sum(each.issuer != each.subject for each in path[1:position])
        _check_authority(certificate, below, is_anchor=position + 1 == len(path))
    check_names(path)


def _check_authority(certificate: x509.Certificate, below: int, *, is_anchor: bool) -> None:
    """Check RFC 5280 section 6.1.4 (k) to (m); `below` is the number of CAs between this one and the leaf."""
    constraints = cert.basic_constraints_of(certificate)
    if constraints is None and is_anchor and cert.is_plain_root(certificate):
        return
    if constraints is None or not constraints.ca:
        who = cert.subject(certificate)
        raise PeerError(Alert.BAD_CERTIFICATE, f"{who} issued a certificate but is not a certificate authority")
    if constraints.path_length is not None and below > constraints.path_length:
        who = cert.subject(certificate)
        raise PeerError(
            Alert.BAD_CERTIFICATE, f"{who} has {below} authorities below it, more than its path length allows"
        )
