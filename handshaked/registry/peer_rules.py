r"""Rules on the certificate of a verified peer, which allow it, deny it, and give it tags.

A rule is a verb (``allow``, ``deny``, ``tag``) and ``field=pattern`` words, quoted as in a shell if need be:

    deny  fingerprint=5f1c...
    allow san=dns:*.nodes.example eku=clientAuth tag=node
    tag   issuer=*O=Example* tag=ours

Fields are ``subject``, ``issuer`` (RFC 4514), ``san`` (``dns:``, ``ip:``, ``email:``, ``uri:`` and the name), ``eku``
(a name or an OID) and ``fingerprint`` (SHA-256, hex). ``*`` and ``?`` stand for any characters, ``[...]`` for one of a
set; case is ignored. A rule holds if all its fields match; a field with several values matches if one of them does.
The first ``allow`` or ``deny`` that holds decides; if none holds, the peer is denied if any rule is an ``allow``. The
peer's tags are the ``tag=`` words of the rules that hold, up to and including the one that decides.
"""

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from handshaked.errors import Alert, PeerError, RefusedError
from handshaked.tls.x509.parsing import parse_certificate, well_formed

FIELDS = ("subject", "issuer", "san", "eku", "fingerprint")
_VERBS = ("allow", "deny", "tag")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,126}")
_MAX_RULE = 2048
_EXTENDED_KEY_USAGES = {
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
    "1.3.6.1.5.5.7.3.3": "codeSigning",
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "1.3.6.1.5.5.7.3.8": "timeStamping",
    "1.3.6.1.5.5.7.3.9": "OCSPSigning",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule; ``conditions`` are (field, pattern in lower case)."""

    verb: str
    conditions: tuple[tuple[str, str], ...]
    tags: tuple[str, ...]

    def holds(self, certificate: dict[str, tuple[str, ...]]) -> bool:
        """Return whether all conditions match the fields of a `certificate`."""
        return all(
            any(fnmatchcase(value, pattern) for value in certificate.get(name, ())) for name, pattern in self.conditions
        )


@lru_cache(maxsize=4096)
def parse_rule(text: str) -> Rule:
    """Parse a rule; RefusedError if it is invalid."""
    if len(text) > _MAX_RULE:
        raise RefusedError(f"a rule has at most {_MAX_RULE} characters")
    try:
        verb, *words = shlex.split(text) or ("",)
    except ValueError as error:
        raise RefusedError(f"rule {text!r}: {error}; write: allow san=dns:*.example.com tag=ours") from None
    if verb not in _VERBS:
        raise RefusedError(f"rule {text!r} begins with {verb!r}; use one of {', '.join(_VERBS)}")
    conditions, tags = [], []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value or name not in (*FIELDS, "tag"):
            raise RefusedError(f"rule {text!r}: {word!r} is not one of {', '.join(f'{one}=' for one in FIELDS)}, tag=")
        if name != "tag":
            conditions.append((name, value.lower().replace(":", "") if name == "fingerprint" else value.lower()))
        elif not _TAG.fullmatch(value):
            raise RefusedError(f"rule {text!r}: use at most 127 letters, digits and . _ : @ / - for a tag")
        else:
            tags.append(value)
    if verb == "tag" and not tags:
        raise RefusedError(f"rule {text!r} gives no tag: add tag=NAME")
    return Rule(verb, tuple(conditions), tuple(tags))


class PeerRules:
    """Rules in order. Without rules, every peer is allowed. ``digest`` identifies them."""

    def __init__(self, rules: Sequence[str] = ()) -> None:
        self._rules = tuple(map(parse_rule, rules))
        self.digest = hashlib.sha256(repr(self._rules).encode()).digest()

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def demand(self) -> bool:
        """True if a peer without a certificate is denied."""
        return any(rule.verb == "allow" for rule in self._rules)

    def authorise(self, leaf: bytes) -> tuple[str, ...]:
        """Return the tags of the peer with the verified certificate `leaf`; PeerError (access_denied) if denied."""
        if not self._rules:
            return ()
        certificate = _fields(leaf)
        tags: dict[str, None] = {}
        for rule in self._rules:
            if not rule.holds(certificate):
                continue
            if rule.verb == "deny":
                raise PeerError(Alert.ACCESS_DENIED, f"a rule denies the peer {certificate['subject'][0]!r}")
            tags |= dict.fromkeys(rule.tags)
            if rule.verb == "allow":
                return tuple(tags)
        if self.demand:
            raise PeerError(Alert.ACCESS_DENIED, f"no rule allows the peer {certificate['subject'][0]!r}")
        return tuple(tags)


def _fields(leaf: bytes) -> dict[str, tuple[str, ...]]:
    """Return the fields that rules match, in lower case; PeerError if the certificate is malformed."""
    with well_formed():
        certificate = parse_certificate(leaf)
        fields: dict[str, tuple[str, ...]] = {
            "subject": (certificate.subject.rfc4514_string().lower(),),
            "issuer": (certificate.issuer.rfc4514_string().lower(),),
            "fingerprint": (certificate.fingerprint(hashes.SHA256()).hex(),),
        }
        for extension in certificate.extensions:
            value = extension.value
            if isinstance(value, x509.SubjectAlternativeName):
                fields["san"] = tuple(name for one in value for name in _alternative_name(one))
            elif isinstance(value, x509.ExtendedKeyUsage):
                fields["eku"] = tuple(name.lower() for one in value for name in _key_usage(one.dotted_string))
    return fields


def _alternative_name(name: x509.GeneralName) -> tuple[str, ...]:
    kinds: dict[type[x509.GeneralName], str] = {
        x509.DNSName: "dns",
        x509.IPAddress: "ip",
        x509.RFC822Name: "email",
        x509.UniformResourceIdentifier: "uri",
    }
    kind = kinds.get(type(name))
    return (f"{kind}:{name.value}".lower(),) if kind else ()


def _key_usage(oid: str) -> tuple[str, ...]:
    return (oid, _EXTENDED_KEY_USAGES[oid]) if oid in _EXTENDED_KEY_USAGES else (oid,)
