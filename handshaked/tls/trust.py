"""Whether a server's certificate chain is good for its name: `cryptography`'s verifier over a fixed set of anchors."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from handshaked.errors import Alert, PeerError


class TrustStore:
    """Trust anchors, parsed once. Implements ``PeerVerifier``."""

    def __init__(self, anchors: Sequence[x509.Certificate]) -> None:
        self._store = Store(list(anchors))

    @classmethod
    def from_der(cls, anchors: Sequence[bytes]) -> "TrustStore":
        """The store that trusts `anchors`, DER certificates; ValueError if one cannot be parsed, or there is none."""
        return cls([x509.load_der_x509_certificate(anchor) for anchor in anchors])

    @classmethod
    def from_pem(cls, bundle: bytes) -> "TrustStore":
        """The store that trusts the certificates of a PEM bundle; ValueError as above."""
        return cls(x509.load_pem_x509_certificates(bundle))

    def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
        """As ``PeerVerifier.verify``."""
        try:
            leaf, *others = map(x509.load_der_x509_certificate, chain)
            expired = not leaf.not_valid_before_utc.timestamp() <= now <= leaf.not_valid_after_utc.timestamp()
        except ValueError as error:
            raise PeerError(Alert.BAD_CERTIFICATE, f"the server's certificate cannot be parsed: {error}") from None
        if expired:
            raise PeerError(Alert.CERTIFICATE_EXPIRED, "the server's certificate is expired or not yet valid")
        builder = PolicyBuilder().store(self._store).time(datetime.fromtimestamp(now, UTC))
        try:
            builder.build_server_verifier(_subject(server_name)).verify(leaf, others)
        except VerificationError as error:
            alert = Alert.UNKNOWN_CA if "candidates exhausted" in str(error) else Alert.BAD_CERTIFICATE
            raise PeerError(alert, f"the server's certificate is not accepted: {str(error)[:200]}") from None


def _subject(server_name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(server_name))
    except ValueError:
        return x509.DNSName(server_name)
