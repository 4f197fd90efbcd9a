"""Certificate and CertificateVerify, which both sides send and receive (RFC 8446 section 4.4)."""

from dataclasses import dataclass

from cryptography import x509

from handshaked.errors import Alert, PeerError
from handshaked.events import SignatureNeeded
from handshaked.model import SignatureScheme
from handshaked.tls import extensions as ext
from handshaked.tls import messages
from handshaked.tls.codepoints import CertificateCompression
from handshaked.tls.compression import compress, decompress
from handshaked.tls.parameters import Credential
from handshaked.tls.signatures import choose_scheme, signed_content, verify
from handshaked.tls.x509.parsing import parse_certificate, well_formed

_PLAIN = 0
_HEADER = 4


def certificate_message(
    credential: Credential,
    compressions: tuple[CertificateCompression, ...],
    offered: tuple[int, ...],
    *,
    ocsp: bool,
) -> bytes:
    """Return the Certificate of `credential`, compressed with the first algorithm `offered` that is in `compressions`.

    It has the OCSP response if `ocsp` and there is one, and is not compressed if that does not make it smaller. The
    encoded message is cached in the credential.
    """
    ocsp = ocsp and credential.ocsp_response is not None
    algorithm = next((CertificateCompression(each) for each in offered if each in compressions), None)
    encoded = credential.messages.get((ocsp, algorithm or _PLAIN))
    if encoded is None:
        response = credential.ocsp_response
        staple = ext.push_ocsp_response(response) if ocsp and response is not None else b""
        encoded = messages.push_certificate(credential.chain, staple)
        if algorithm is not None:
            body = encoded[_HEADER:]
            small = messages.push_compressed_certificate(algorithm, len(body), compress(algorithm, body))
            encoded = min(encoded, small, key=len)
        credential.messages[ocsp, algorithm or _PLAIN] = encoded
    return encoded


def signature_needed(
    credential: Credential, offered: tuple[int, ...], transcript_hash: bytes, *, by_server: bool
) -> SignatureNeeded:
    """Return what must be signed with `credential`, by its best scheme that the peer has `offered`.

    PeerError if there is none.
    """
    scheme = choose_scheme(credential.key_type, offered)
    if scheme is None:
        raise PeerError(
            Alert.HANDSHAKE_FAILURE, f"the peer supports no signature scheme of {credential.key_type.value} keys"
        )
    return SignatureNeeded(scheme, transcript_hash, by_server)


def decompressed(message: bytes, offered: tuple[CertificateCompression, ...]) -> bytes:
    """Return the body of the Certificate in a CompressedCertificate (RFC 8879 section 4)."""
    algorithm, length, compressed = messages.pull_compressed_certificate(message)
    if algorithm not in offered:
        raise PeerError(Alert.ILLEGAL_PARAMETER, f"certificate compression {algorithm} was not offered")
    return decompress(algorithm, length, compressed)


@dataclass(slots=True)
class PeerCertificate:
    """A received chain; possession of the private key is not proven yet."""

    chain: tuple[bytes, ...]
    leaf: x509.Certificate


def parse_chain(message: messages.CertificateMessage) -> PeerCertificate:
    """Return the chain of a Certificate that is not empty; extensions are refused, as none was requested."""
    if message.context:
        # Section 4.4.2: empty, unless the CertificateRequest had a context, which is never the case here.
        raise PeerError(Alert.ILLEGAL_PARAMETER, "Certificate with a context")
    if message.extension_types:
        # Section 4.4.2: they "MUST correspond to ones from the ClientHello" or the CertificateRequest.
        raise PeerError(Alert.UNSUPPORTED_EXTENSION, "Certificate with extensions that were not requested")
    with well_formed():
        return PeerCertificate(message.chain, parse_certificate(message.chain[0]))


def check_certificate_verify(
    peer: PeerCertificate,
    message: bytes,
    offered: tuple[SignatureScheme, ...],
    transcript_hash: bytes,
    *,
    by_server: bool,
) -> None:
    """Check the signature of a CertificateVerify; `transcript_hash` covers the messages up to the Certificate."""
    scheme, signature = messages.pull_certificate_verify(message)
    if scheme not in offered:
        raise PeerError(Alert.ILLEGAL_PARAMETER, f"signature scheme {scheme:#06x} was not offered")
    verify(peer.leaf, scheme, signature, signed_content(transcript_hash, by_server=by_server))
