"""Trust anchors, parsed once and then shared by all handshakes that use them."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.x509.verification import Store

from handshaked.tls.x509.certificates import is_signed_by

MAX_ANCHORS = 4096
"""Most certificates a trust store may have (the usual bundles have 150)."""

_MAX_REMEMBERED = 1024


class TrustStore:
    """An immutable set of certificates that are trusted as they are, whoever signed them (RFC 5280 section 6.1.1 (d)).

    A leaf that is in the set is trusted too, which is how a self-signed certificate is used.
    """

    def __init__(self, anchors: Iterable[x509.Certificate]) -> None:
        self._anchors = frozenset(anchors)
        self._named: dict[x509.Name, tuple[x509.Certificate, ...]] = {}
        for anchor in self._anchors:
            self._named[anchor.subject] = (*self._named.get(anchor.subject, ()), anchor)
        self.store = Store(list(self._anchors))
        self._vouched_for: set[x509.Certificate] = set()

    def __len__(self) -> int:
        return len(self._anchors)

    def has(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate is an anchor itself."""
        return certificate in self._anchors

    def named(self, name: x509.Name) -> tuple[x509.Certificate, ...]:
        """The anchors of that name."""
        return self._named.get(name, ())

    def vouched_for(self, certificates: list[x509.Certificate]) -> list[x509.Certificate]:
        """Those of a peer's certificates that anchors signed, or others of them so signed.

        The rest is left aside before any way is searched: its keys are the peer's own choice, and checking signatures
        with them can be made as dear as it likes. Signatures found good are remembered, which is all that changes here.
        """
        found = [each for each in certificates if each in self._anchors or each in self._vouched_for]
        waiting = [each for each in certificates if each not in found]
        while new := [each for each in waiting if self._is_signed_by_one_of(found, each)]:
            found += new
            waiting = [each for each in waiting if each not in new]
            if len(self._vouched_for) + len(new) > _MAX_REMEMBERED:
                self._vouched_for.clear()
            self._vouched_for.update(new)
        return found

    def _is_signed_by_one_of(self, found: list[x509.Certificate], certificate: x509.Certificate) -> bool:
        name = certificate.issuer
        issuers = (*self.named(name), *(each for each in found if each.subject == name))
        return any(is_signed_by(certificate, issuer) for issuer in issuers)
