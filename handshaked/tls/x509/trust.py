"""Trust anchors, which all handshakes that use them share."""

import hashlib
from collections.abc import Iterable, Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from handshaked.tls.x509.certificates import MAX_SIGNATURE_CHECKS, is_signed_by
from handshaked.tls.x509.parsing import MALFORMED

MAX_ANCHORS = 4096
"""Most certificates that a trust store may have (the usual bundles have 150)."""

_MAX_REMEMBERED = 1024


class TrustStore:
    """An immutable set of certificates that are trusted, whoever signed them (RFC 5280 section 6.1.1 (d)).

    A leaf in the set is trusted too, so that a self-signed certificate can be used. ``readers`` makes stores.
    ``left_out`` names certificates of the file that cannot be used: each with its position, the reason, and its subject
    if that can be read. ``digest`` identifies the set.
    """

    def __init__(self, anchors: Iterable[x509.Certificate], left_out: Iterable[str] = ()) -> None:
        self._anchors = dict.fromkeys(anchors)  # in their order, which decides on the order of paths
        self.left_out = tuple(left_out)
        self._named: dict[x509.Name, tuple[x509.Certificate, ...]] = {}
        for anchor in self._anchors:
            self._named[anchor.subject] = (*self._named.get(anchor.subject, ()), anchor)
        fingerprints = sorted(anchor.fingerprint(hashes.SHA256()) for anchor in self._anchors)
        self.digest = hashlib.sha256(b"".join(fingerprints)).digest()
        self._anchored: set[x509.Certificate] = set()

    def __len__(self) -> int:
        return len(self._anchors)

    def __iter__(self) -> Iterator[x509.Certificate]:
        return iter(self._anchors)

    def has(self, certificate: x509.Certificate) -> bool:
        """Return whether a certificate is an anchor."""
        return certificate in self._anchors

    def named(self, name: x509.Name) -> tuple[x509.Certificate, ...]:
        """Return the anchors with the subject `name`."""
        return self._named.get(name, ())

    def anchored(self, certificates: list[x509.Certificate]) -> list[x509.Certificate]:
        """Return the certificates of a peer that an anchor signed, directly or through others of them.

        The others are left out of the search for paths: the peer chose their keys, and can make verifying signatures
        with them as costly as it likes. Others of an anchor's name and key are left out, too: the anchor serves as
        well. Valid signatures are cached, and the number of those that are verified is limited.
        """
        certificates = [each for each in certificates if each in self._anchors or not self._stands_for_anchor(each)]
        found = [each for each in certificates if each in self._anchors or each in self._anchored]
        waiting = [each for each in certificates if each not in found]
        checks = 0
        before = -1
        while before < len(found):
            before = len(found)
            for certificate in [each for each in waiting if each not in found]:
                for issuer in self._issuers(certificate, found):
                    checks += 1
                    if checks > MAX_SIGNATURE_CHECKS:
                        return found
                    if is_signed_by(certificate, issuer):
                        self._remember(certificate)
                        found.append(certificate)
                        break
        return found

    def _issuers(self, certificate: x509.Certificate, found: list[x509.Certificate]) -> list[x509.Certificate]:
        """Return the anchors, and those `found` to be anchored, that may have issued `certificate` by their name."""
        name = certificate.issuer
        return [*self.named(name), *(each for each in found if each.subject == name)]

    def _remember(self, certificate: x509.Certificate) -> None:
        if len(self._anchored) >= _MAX_REMEMBERED:
            self._anchored.clear()
        self._anchored.add(certificate)

    def _stands_for_anchor(self, certificate: x509.Certificate) -> bool:
        """Return whether there is an anchor of the same name and key, as after a root was renewed."""
        try:
            return any(anchor.public_key() == certificate.public_key() for anchor in self.named(certificate.subject))
        except MALFORMED:
            return False
