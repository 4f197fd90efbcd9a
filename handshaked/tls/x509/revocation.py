"""Certificate revocation lists (RFC 5280 section 5), and the check of a certificate against them.

Certificates of an issuer without a list are accepted, unless ``required`` is set. If an issuer has lists, one of them
must be current, signed by it, and for the certificate's distribution point if it names any, else its certificates are
refused. A list is current from thisUpdate to nextUpdate, and for ``grace`` seconds longer. Any list still revokes what
it lists.
"""

import hashlib
from collections.abc import Iterable
from math import inf

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from handshaked.errors import Alert, PeerError
from handshaked.tls.x509 import certificates as cert
from handshaked.tls.x509.keys import may_have_signed
from handshaked.tls.x509.parsing import MALFORMED

_MAX_ISSUERS = 16
_UNDERSTOOD = (x509.CRLNumber, x509.AuthorityKeyIdentifier, x509.IssuingDistributionPoint)


class RevocationList:
    """One revocation list: complete, direct, and for all reasons. ``readers`` makes them."""

    def __init__(self, parsed: x509.CertificateRevocationList) -> None:
        """Take over what ``readers.read_revocation_lists`` parsed; raises one of ``MALFORMED`` if it is unusable."""
        self._signed_by: dict[x509.Certificate, bool] = {}
        self._list = parsed
        self.issuer = parsed.issuer
        self._points: frozenset[x509.GeneralName] | None = None
        self._users, self._authorities = self._scope()
        self._revoked = frozenset(entry.serial_number for entry in parsed)
        self._begin, self._end = parsed.last_update_utc, parsed.next_update_utc
        self.fingerprint = parsed.fingerprint(hashes.SHA256())

    def _scope(self) -> tuple[bool, bool]:
        """Return whether the list covers end entities, and whether it covers authorities (RFC 5280 section 5.2.5)."""
        users = authorities = True
        for extension in self._list.extensions:
            value = extension.value
            if isinstance(value, x509.IssuingDistributionPoint):
                if value.indirect_crl or value.only_some_reasons or value.only_contains_attribute_certs:
                    raise ValueError("indirect and partial lists are not supported")
                users, authorities = not value.only_contains_ca_certs, not value.only_contains_user_certs
                if value.full_name is not None or value.relative_name is not None:
                    self._points = frozenset(value.full_name or ())
            elif isinstance(value, x509.DeltaCRLIndicator):
                raise ValueError("delta lists are not supported: they leave out what the complete list contains")
            elif extension.critical and not isinstance(value, _UNDERSTOOD):
                raise ValueError(f"critical extension {extension.oid.dotted_string} is not supported")
        return users, authorities

    def covers(self, certificate: x509.Certificate) -> bool:
        """Return whether a certificate is in the list's scope (RFC 5280 section 6.3.3 (b) (2))."""
        constraints = cert.basic_constraints_of(certificate)
        return self._authorities if constraints is not None and constraints.ca else self._users

    def is_complete_for(self, certificate: x509.Certificate) -> bool:
        """Return whether the list would contain a certificate that is revoked (RFC 5280 section 6.3.3 (b) (2) (i)).

        A list that names distribution points contains the certificates that name one of them, and perhaps no others.
        """
        if self._points is None:
            return True
        try:
            points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        except x509.ExtensionNotFound:
            return False
        return any(name in self._points for point in points for name in point.full_name or ())

    def is_signed_by(self, authority: x509.Certificate) -> bool:
        """Return whether `authority` signed the list, and may sign lists (RFC 5280 section 6.3.3 (f), (g)); cached."""
        if authority not in self._signed_by:
            if len(self._signed_by) >= _MAX_ISSUERS:
                self._signed_by.clear()
            self._signed_by[authority] = self._verify(authority)
        return self._signed_by[authority]

    def _verify(self, authority: x509.Certificate) -> bool:
        key_usage = cert.key_usage_of(authority)
        if key_usage is not None and not key_usage.crl_sign:
            return False
        if not cert.has_sound_signature_algorithm(self._list):
            return False
        try:
            if not may_have_signed(authority, self._list):
                return False
            # mypy: the key of whatever issued a certificate can issue; if not, it is a TypeError
            return self._list.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
        except MALFORMED:
            return False

    @property
    def begin(self) -> float:
        """Its thisUpdate, in Unix seconds."""
        return self._begin.timestamp()

    @property
    def end(self) -> float:
        """Its nextUpdate, in Unix seconds; without it, which is mandatory (RFC 5280 section 5.1.2.5), it has ended."""
        return -inf if self._end is None else self._end.timestamp()

    @property
    def issuer_text(self) -> str:
        """Its issuer, fit for a log."""
        return cert.name_text(self.issuer)

    def is_current(self, now: float, grace: float = 0.0) -> bool:
        """Return whether `now` is between thisUpdate and `grace` seconds after nextUpdate."""
        return self.begin <= now <= self.end + grace

    def revokes(self, certificate: x509.Certificate) -> bool:
        """Return whether the list contains a certificate of its issuer."""
        return certificate.serial_number in self._revoked


class RevocationLists:
    """Revocation lists by issuer, immutable. ``digest`` identifies them."""

    def __init__(self, lists: Iterable[RevocationList] = (), *, required: bool = False, grace: float = 0.0) -> None:
        self._required = required
        self._grace = grace
        self._of: dict[x509.Name, tuple[RevocationList, ...]] = {}
        fingerprints = []
        for revocations in lists:
            self._of[revocations.issuer] = (*self._of.get(revocations.issuer, ()), revocations)
            fingerprints.append(revocations.fingerprint)
        self.digest = hashlib.sha256(b"".join([b"%d %r " % (required, grace), *sorted(fingerprints)])).digest()

    def check(self, certificate: x509.Certificate, authority: x509.Certificate, now: float) -> None:
        """Raise PeerError if a certificate that `authority` issued is revoked, or if no current list can tell."""
        lists = [one for one in self._of.get(certificate.issuer, ()) if one.covers(certificate)]
        if not lists and not self._required:
            return
        own = [one for one in lists if one.is_signed_by(authority)]
        if any(one.revokes(certificate) for one in own):
            raise PeerError(
                Alert.CERTIFICATE_REVOKED, f"the certificate of {cert.subject(certificate)} was revoked by its issuer"
            )
        complete = [one for one in own if one.is_complete_for(certificate)]
        if any(one.is_current(now, self._grace) for one in complete):
            return
        wrong = (
            "is out of date" if complete
            else "is only for other distribution points" if own
            else "is not signed by it" if lists
            else "is missing"
        )  # fmt: skip
        raise PeerError(
            Alert.CERTIFICATE_UNKNOWN,
            f"the revocation list of {cert.issuer(certificate)} {wrong}: install a current list",
        )
