"""Verification of a peer's certificate chain: its signatures, dates and usages, and for a server its name.

Paths are validated as RFC 5280 section 6.1 describes. The rules beyond:

* keys: RSA of 2048 to 8192 bits, ECDSA P-256/384/521, Ed25519, Ed448, ML-DSA; no SHA-1 in a signature below an anchor;
* an anchor is trusted whoever signed it, even if it is the leaf; like all certificates, it must be within its dates;
* a server's name must be in the subjectAltName: the common name is ignored (RFC 9525 section 2);
* an extended key usage must include the purpose; without one, all are allowed (RFC 5280 section 4.2.1.12).

``docs/explanation/certificate-checks.md`` lists what is stricter than the RFC, and where OpenSSL differs.
"""

import hashlib
from itertools import pairwise

from cryptography import x509

from handshaked.errors import Alert, CallerError, PeerError, RefusedError, Status
from handshaked.tls.x509 import certificates as cert
from handshaked.tls.x509 import paths
from handshaked.tls.x509.certificates import Path, Purpose
from handshaked.tls.x509.host_names import Address, canonical_host_name, covers, ip_address
from handshaked.tls.x509.parsing import shown, well_formed
from handshaked.tls.x509.revocation import RevocationLists
from handshaked.tls.x509.trust import TrustStore

_NO_LISTS = RevocationLists()
_MAX_LEFT_OUT = 3

ServerName = Address | str


class _ChainVerifier:
    """The verification that both purposes share."""

    def __init__(self, purpose: Purpose, trust: TrustStore, revocations: RevocationLists) -> None:
        self._purpose = purpose
        self._trust = trust
        self._revocations = revocations
        self._digest = hashlib.sha256(trust.digest + revocations.digest).digest()

    @property
    def trust(self) -> bytes:
        """As ``PeerVerifier.trust``: a digest of trust anchors and revocation lists."""
        return self._digest

    def _verify(self, encoded: tuple[bytes, ...], server_name: ServerName | None, now: float) -> None:
        leaf, *sent = cert.pull_chain(encoded)
        with well_formed():
            cert.check_dates(leaf, now)
            cert.check_key(leaf)
            cert.check_leaf_usage(leaf, self._purpose)
            cert.check_critical_extensions(leaf)
            if server_name is not None:
                _check_server_name(leaf, server_name)
            path = self._valid_path(leaf, sent, now)
            for certificate, authority in pairwise(path):
                self._revocations.check(certificate, authority, now)

    def _valid_path(self, leaf: x509.Certificate, sent: list[x509.Certificate], now: float) -> Path:
        """Return a valid path. PeerError with the fault of the first one if none is valid."""
        others = self._trust.anchored(sent)
        paths.check_effort(leaf, others, self._trust)
        fault: PeerError | None = None
        for path in paths.find_paths(leaf, others, self._trust):
            try:
                paths.check_path(path, self._purpose, now)
            except PeerError as error:
                fault = fault or error
            else:
                return path
        raise fault or self._unknown(leaf, sent)

    def _unknown(self, leaf: x509.Certificate, sent: list[x509.Certificate]) -> PeerError:
        """Return the error for a leaf from which no path leads to an anchor."""
        for certificate in (leaf, *sent):
            cert.check_signature_algorithm(certificate)
        return PeerError(
            Alert.UNKNOWN_CA,
            f"no trusted authority issued the certificate of {cert.subject(leaf)}; its issuer is {cert.issuer(leaf)}:"
            " trust that issuer, or have the peer send its whole chain"
            + "".join(f"; left out: {one}" for one in self._trust.left_out[:_MAX_LEFT_OUT]),
        )


class ServerChainVerifier(_ChainVerifier):
    """Verifies the certificates of servers, for clients. Implements ``PeerVerifier``."""

    def __init__(self, trust: TrustStore, revocations: RevocationLists = _NO_LISTS) -> None:
        super().__init__(Purpose.SERVER, trust, revocations)

    def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
        """As ``PeerVerifier.verify``; CallerError if `server_name` is neither a host name nor an IP address."""
        try:
            wanted = ip_address(server_name) or canonical_host_name(server_name)
        except RefusedError as error:
            raise CallerError(
                Alert.INTERNAL_ERROR,
                f"{shown(server_name)} is neither a host name nor an IP address: {shown(str(error))}",
                Status.INVALID,
            ) from None
        self._verify(chain, wanted, now)


class ClientChainVerifier(_ChainVerifier):
    """Verifies the certificates of clients, for servers. Implements ``ClientCertificateVerifier``."""

    def __init__(self, trust: TrustStore, revocations: RevocationLists = _NO_LISTS) -> None:
        super().__init__(Purpose.CLIENT, trust, revocations)

    def verify(self, chain: tuple[bytes, ...], now: float) -> None:
        """As ``ClientCertificateVerifier.verify``."""
        self._verify(chain, None, now)


def _check_server_name(leaf: x509.Certificate, wanted: ServerName) -> None:
    """Refuse a leaf that is not for a server's host name or address (RFC 9525 section 6)."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise _wrong_name(leaf, wanted, "it has no subjectAltName") from None
    presented = names.get_values_for_type(x509.DNSName)
    if isinstance(wanted, str):
        if any(covers(name, wanted) for name in presented):
            return
    elif wanted in names.get_values_for_type(x509.IPAddress):
        return
    wide = "; a wildcard needs two labels after it" if f"*.{str(wanted).partition('.')[2]}" in presented else ""
    raise _wrong_name(leaf, wanted, f"it is for {shown(', '.join(str(name.value) for name in names))}{wide}")


def _wrong_name(leaf: x509.Certificate, wanted: ServerName, why: str) -> PeerError:
    return PeerError(
        Alert.BAD_CERTIFICATE, f"the certificate of {cert.subject(leaf)} is not valid for {shown(str(wanted))} ({why})"
    )
