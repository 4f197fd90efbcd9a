"""OCSP responses for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.certificates import NOW, root

RESPONDER = root("responder", number=8)
MUST_STAPLE = x509.TLSFeature([x509.TLSFeatureType.status_request])


def ocsp_response(
    leaf: x509.Certificate,
    issuer: x509.Certificate,
    valid: tuple[float, float | None] = (-1, 1),
    *,
    good: bool = True,
    digest: hashes.HashAlgorithm | None = None,
    now: datetime = NOW,
) -> bytes:
    """Return a response about `leaf`, DER; `valid` is in days from `now`, and no authority signs it."""
    now = now.astimezone(UTC).replace(tzinfo=None, microsecond=0)
    begin, end = (None if one is None else now + timedelta(days=one) for one in valid)
    builder = ocsp.OCSPResponseBuilder().add_response(
        leaf,
        issuer,
        digest or hashes.SHA1(),  # noqa: S303 - what responders use to name certificates
        ocsp.OCSPCertStatus.GOOD if good else ocsp.OCSPCertStatus.REVOKED,
        begin,
        end,
        None if good else begin,
        None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, RESPONDER.certificate)
    signed = builder.sign(RESPONDER.key, hashes.SHA256())
    return signed.public_bytes(Encoding.DER)
