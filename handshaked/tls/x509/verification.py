"""Verification of a peer's certificate chain: its signatures, dates and usages, and for a server its name.

The verifier is `cryptography`'s. What it does not check is checked before it (bounds, key strength, usages of the leaf)
and after it (revocation). Where it lacks an algorithm, ``paths`` validates the chain. The rules:

* keys: RSA of 2048 to 8192 bits, ECDSA P-256/384/521, Ed25519, Ed448, ML-DSA; no SHA-1 in a signature below an anchor;
* an anchor is trusted whoever signed it, even if it is the leaf; like all certificates, it must be within its dates;
* a server's name must be in the subjectAltName: the common name is ignored (RFC 9525 section 2);
* an extended key usage must include the purpose; without one, all are allowed (RFC 5280 section 4.2.1.12).

Stricter than OpenSSL: the rules above on names, digests and key sizes; unsupported name constraints; EC keys on other
curves; names that differ in case or spaces do not chain. More lenient: an intermediate may be an anchor.
"""

import ipaddress
from datetime import UTC, datetime
from itertools import pairwise
from typing import NoReturn

import idna
from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from handshaked.errors import Alert, CallerError, PeerError, Status
from handshaked.tls.x509 import certificates as cert
from handshaked.tls.x509 import paths
from handshaked.tls.x509.certificates import Purpose
from handshaked.tls.x509.parsing import shown, well_formed
from handshaked.tls.x509.revocation import RevocationLists
from handshaked.tls.x509.trust import TrustStore

_NO_LISTS = RevocationLists()
_ANY = Criticality.AGNOSTIC
_MAX_REFUSAL = 160
_MAX_LEFT_OUT = 3


def _authority_policy(purpose: Purpose) -> ExtensionPolicy:
    """Return the requirements on an authority's extensions: fewer than the Web's, so that private CAs can be used."""

    def check_usage(_policy: Policy, certificate: x509.Certificate, _usage: object) -> None:
        cert.check_issuer_usage(certificate, purpose)

    policy = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, _ANY, None)
    policy = policy.may_be_present(x509.KeyUsage, _ANY, check_usage)
    policy = policy.may_be_present(x509.NameConstraints, _ANY, _check_constraints)
    return policy.may_be_present(x509.CertificatePolicies, _ANY, None)


def _check_constraints(
    _policy: Policy, _certificate: x509.Certificate, constraints: x509.NameConstraints | None
) -> None:
    """Refuse constraints that the verifier would ignore where they are not critical."""
    subtrees = constraints and (*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ()))
    if subtrees and any(isinstance(subtree, x509.DirectoryName) for subtree in subtrees):
        raise ValueError("a name constraint on directory names is not supported")


def _leaf_policy(purpose: Purpose) -> ExtensionPolicy:
    policy = ExtensionPolicy.permit_all().may_be_present(x509.CertificatePolicies, _ANY, None)
    if purpose is Purpose.SERVER:
        return policy.require_present(x509.SubjectAlternativeName, _ANY, None)
    return policy


_BUILDERS = {
    purpose: PolicyBuilder().extension_policies(ca_policy=_authority_policy(purpose), ee_policy=_leaf_policy(purpose))
    for purpose in Purpose
}


class _ChainVerifier:
    """The verification that both purposes share."""

    def __init__(self, purpose: Purpose, trust: TrustStore, revocations: RevocationLists) -> None:
        self._purpose = purpose
        self._trust = trust
        self._revocations = revocations
        self._builder = _BUILDERS[purpose].store(trust.store)

    def _verify(self, encoded: tuple[bytes, ...], subject: x509.verification.Subject | None, now: float) -> None:
        leaf, *sent = cert.pull_chain(encoded)
        with well_formed():
            cert.check_dates(leaf, now)
            cert.check_key(leaf)
            cert.check_leaf_usage(leaf, self._purpose)
            others = self._trust.anchored(sent)
            paths.check_effort(leaf, others, self._trust)
            try:
                path = tuple(self._build(self._builder, leaf, others, subject, now))
            except VerificationError as error:
                refusal = shown(str(error), _MAX_REFUSAL)
                path = self._path_beyond_verifier(leaf, others, subject, now, refusal) or self._refuse(leaf, sent)
            _check_no_wide_wildcard(leaf, subject)
            for certificate, authority in pairwise(path):
                self._revocations.check(certificate, authority, now)

    def _build(
        self,
        builder: PolicyBuilder,
        leaf: x509.Certificate,
        others: list[x509.Certificate],
        subject: x509.verification.Subject | None,
        now: float,
    ) -> list[x509.Certificate]:
        """Return the path that `cryptography` finds, from leaf to anchor; raises VerificationError."""
        builder = builder.time(datetime.fromtimestamp(now, UTC))
        if subject is None:
            return builder.build_client_verifier().verify(leaf, others).chain
        return builder.build_server_verifier(subject).verify(leaf, others)

    def _path_beyond_verifier(
        self,
        leaf: x509.Certificate,
        others: list[x509.Certificate],
        subject: x509.verification.Subject | None,
        now: float,
        refusal: str,
    ) -> paths.Path | None:
        """Return a valid path that the verifier refused for lack of an algorithm; PeerError if it was right to refuse.

        None if no path leads to an anchor. `refusal` is what the verifier said.
        """
        self._check_leaf_alone(leaf, subject, now)
        fault: PeerError | None = None
        for path in paths.find_paths(leaf, others, self._trust):
            try:
                paths.check_path(path, self._purpose, now)
                if not paths.is_beyond_verifier(path):
                    raise PeerError(Alert.BAD_CERTIFICATE, f"the certificate of {cert.subject(leaf)}: {refusal}")
                paths.check_understood(path)
            except PeerError as error:
                fault = fault or error
            else:
                return path
        if fault is not None:
            raise fault
        return None

    def _refuse(self, leaf: x509.Certificate, sent: list[x509.Certificate]) -> NoReturn:
        """Raise PeerError: no path was found."""
        for certificate in (leaf, *sent):
            cert.check_signature_algorithm(certificate)
        raise PeerError(
            Alert.UNKNOWN_CA,
            f"no trusted authority issued the certificate of {cert.subject(leaf)}; its issuer is {cert.issuer(leaf)}:"
            " trust that issuer, or have the peer send its whole chain"
            + "".join(f"; left out: {one}" for one in self._trust.left_out[:_MAX_LEFT_OUT]),
        )

    def _check_leaf_alone(self, leaf: x509.Certificate, subject: x509.verification.Subject | None, now: float) -> None:
        """Refuse a leaf that would be invalid even as an anchor, because of its names or extensions."""
        if subject is None and leaf.version is x509.Version.v1:
            return  # it has no extensions to check, and the verifier refuses all of this version
        try:
            self._build(_BUILDERS[self._purpose].store(Store([leaf])), leaf, [], subject, now)
        except VerificationError as error:
            wanted = f" for {shown(str(subject.value))}" if subject else ""
            raise PeerError(
                Alert.BAD_CERTIFICATE,
                f"the certificate of {cert.subject(leaf)} is not valid{wanted} ({_names(leaf)}):"
                f" {shown(str(error).removeprefix('validation failed: '), _MAX_REFUSAL)}",
            ) from None


class ServerChainVerifier(_ChainVerifier):
    """Verifies the certificates of servers, for clients. Implements ``PeerVerifier``."""

    def __init__(self, trust: TrustStore, revocations: RevocationLists = _NO_LISTS) -> None:
        super().__init__(Purpose.SERVER, trust, revocations)

    def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
        """As ``PeerVerifier.verify``; CallerError if `server_name` is neither a host name nor an IP address."""
        try:
            subject = _subject(server_name)
            self._builder.build_server_verifier(subject)
        except (ValueError, idna.IDNAError) as error:
            raise CallerError(
                Alert.INTERNAL_ERROR,
                f"server name {shown(server_name)} is neither a host name nor an IP address: {error}",
                Status.INVALID,
            ) from None
        self._verify(chain, subject, now)


class ClientChainVerifier(_ChainVerifier):
    """Verifies the certificates of clients, for servers. Implements ``ClientCertificateVerifier``."""

    def __init__(self, trust: TrustStore, revocations: RevocationLists = _NO_LISTS) -> None:
        super().__init__(Purpose.CLIENT, trust, revocations)

    def verify(self, chain: tuple[bytes, ...], now: float) -> None:
        """As ``ClientCertificateVerifier.verify``."""
        self._verify(chain, None, now)


def _subject(server_name: str) -> x509.verification.Subject:
    """Return the name to find in a certificate (RFC 9525 section 4): an address, or a host name in A-labels."""
    try:
        return x509.IPAddress(ipaddress.ip_address(server_name.partition("%")[0]))  # without the zone of a link
    except ValueError:
        pass
    name = server_name if server_name.isascii() else idna.encode(server_name, uts46=True).decode("ascii")
    return x509.DNSName(name.removesuffix("."))


def _check_no_wide_wildcard(leaf: x509.Certificate, subject: x509.verification.Subject | None) -> None:
    """Refuse ``*.example`` for ``a.example``, as browsers do: it would cover a whole top-level domain."""
    if isinstance(subject, x509.DNSName) and subject.value.count(".") == 1:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if subject.value.lower() not in [name.lower() for name in names.get_values_for_type(x509.DNSName)]:
            raise PeerError(
                Alert.BAD_CERTIFICATE,
                f"the certificate of {cert.subject(leaf)} is not valid for {shown(subject.value)} ({_names(leaf)}):"
                " a wildcard needs at least two labels after it",
            )


def _names(leaf: x509.Certificate) -> str:
    """Describe the names that a certificate is for, fit for a log."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "it has no subjectAltName"
    return "it is for " + shown(", ".join(str(name.value) for name in names))
