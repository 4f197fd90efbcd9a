"""Trust anchors, parsed once and then shared by all handshakes that use them."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.x509.verification import Store

MAX_ANCHORS = 4096
"""Most certificates a trust store may have (the usual bundles have 150)."""

MAX_BUNDLE = 16 * 1024 * 1024
"""Largest PEM bundle that is parsed, in bytes."""


class TrustStore:
    """An immutable set of certificates that are trusted as they are, whoever signed them (RFC 5280 section 6.1.1 (d)).

    A leaf that is in the set is trusted too, which is how a self-signed certificate is used.
    """

    def __init__(self, anchors: Iterable[x509.Certificate]) -> None:
        self._anchors = frozenset(anchors)
        if not self._anchors:
            raise ValueError("a trust store needs at least one certificate")
        if len(self._anchors) > MAX_ANCHORS:
            raise ValueError(f"a trust store of {len(self._anchors)} certificates, the limit is {MAX_ANCHORS}")
        self._named: dict[x509.Name, tuple[x509.Certificate, ...]] = {}
        for anchor in self._anchors:
            self._named[anchor.subject] = (*self._named.get(anchor.subject, ()), anchor)
        self.store = Store(list(self._anchors))

    @classmethod
    def from_der(cls, anchors: Iterable[bytes]) -> "TrustStore":
        """The store of DER certificates; ValueError if one cannot be parsed, if there is none, or too many."""
        return cls([_parsed(number, anchor) for number, anchor in enumerate(anchors, 1)])

    @classmethod
    def from_pem(cls, bundle: bytes) -> "TrustStore":
        """The store of the certificates of a PEM bundle; ValueError as above."""
        if len(bundle) > MAX_BUNDLE:
            raise ValueError(f"a trust store of {len(bundle)} bytes, the limit is {MAX_BUNDLE}")
        return cls(x509.load_pem_x509_certificates(bundle))

    def __len__(self) -> int:
        return len(self._anchors)

    def has(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate is an anchor itself."""
        return certificate in self._anchors

    def named(self, name: x509.Name) -> tuple[x509.Certificate, ...]:
        """The anchors of that name."""
        return self._named.get(name, ())


def _parsed(number: int, anchor: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(anchor)
    except ValueError as error:
        raise ValueError(f"trust anchor {number} cannot be parsed: {error}") from None
