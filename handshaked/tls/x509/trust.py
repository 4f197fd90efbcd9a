"""Trust anchors, which all handshakes that use them share."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.x509.verification import Store

from handshaked.tls.x509.certificates import is_signed_by

MAX_ANCHORS = 4096
"""Most certificates that a trust store may have (the usual bundles have 150)."""

_MAX_REMEMBERED = 1024


class TrustStore:
    """An immutable set of certificates that are trusted, whoever signed them (RFC 5280 section 6.1.1 (d)).

    A leaf in the set is trusted too, so that a self-signed certificate can be used. ``readers`` makes stores.
    ``left_out`` names certificates of the file that cannot be used: each with its position, the reason, and its subject
    if that can be read.
    """

    def __init__(self, anchors: Iterable[x509.Certificate], left_out: Iterable[str] = ()) -> None:
        self._anchors = frozenset(anchors)
        self.left_out = tuple(left_out)
        self._named: dict[x509.Name, tuple[x509.Certificate, ...]] = {}
        for anchor in self._anchors:
            self._named[anchor.subject] = (*self._named.get(anchor.subject, ()), anchor)
        self.store = Store(list(self._anchors))
        self._anchored: set[x509.Certificate] = set()

    def __len__(self) -> int:
        return len(self._anchors)

    def has(self, certificate: x509.Certificate) -> bool:
        """Return whether a certificate is an anchor."""
        return certificate in self._anchors

    def named(self, name: x509.Name) -> tuple[x509.Certificate, ...]:
        """Return the anchors with the subject `name`."""
        return self._named.get(name, ())

    def anchored(self, certificates: list[x509.Certificate]) -> list[x509.Certificate]:
        """Return the certificates of a peer that an anchor signed, directly or through others of them.

        The others are left out of the search for paths: the peer chose their keys, and can make verifying signatures
        with them as costly as it likes. Valid signatures are cached.
        """
        found = [each for each in certificates if each in self._anchors or each in self._anchored]
        waiting = [each for each in certificates if each not in found]
        while new := [each for each in waiting if self._is_signed_by_one_of(found, each)]:
            found += new
            waiting = [each for each in waiting if each not in new]
            if len(self._anchored) + len(new) > _MAX_REMEMBERED:
                self._anchored.clear()
            self._anchored.update(new)
        return found

    def _is_signed_by_one_of(self, found: list[x509.Certificate], certificate: x509.Certificate) -> bool:
        name = certificate.issuer
        issuers = (*self.named(name), *(each for each in found if each.subject == name))
        return any(is_signed_by(certificate, issuer) for issuer in issuers)
