"""Chains of certificates with known peculiarities, to compare verdicts on them with OpenSSL's.

Every chain consists of a leaf, intermediates and a root with names of their own, so that one process can verify all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests import raw_certificates as raw
from tests.certificates import key
from tests.raw_certificates import Raw, Signing, oid, sequence, tlv, utf8

COMMON, ORGANIZATION = "2.5.4.3", "2.5.4.10"
HOST = "a.example"
PSS_KINDS = {
    "pss": ((), Signing(pss=True)),
    "pss256": (("sha256", "sha256", 32), Signing(pss=True)),
    "pss384": (("sha384", "sha384", 20), Signing("sha384", pss=True, salt=48)),
    "pss512": (("sha512", "sha512", 64), Signing("sha512", pss=True, salt=64)),
    "pss256 mgf1-sha1": (("sha256", "sha1", 20), Signing(pss=True, mask_digest="sha1")),
    "pss256 salt 64": (("sha256", "sha256", 64), Signing(pss=True, salt=64)),
    "pss sha1": (("sha1",), Signing("sha1", pss=True, salt=20)),
}


@dataclass
class Part:
    """A certificate to be made: the kind of key, the subject, extensions by name, and options of ``certificate``."""

    kind: str
    number: int
    subject: bytes
    extensions: dict[str, bytes] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)

    def make(self, issuer: Raw | None) -> Raw:
        kind = "rsa2048" if self.kind in PSS_KINDS else self.kind
        options = dict(self.options)
        if self.kind in PSS_KINDS:
            parameters, signs = PSS_KINDS[self.kind]
            options = {"key_algorithm": raw.pss_algorithm(*parameters), "signs": signs} | options
        extensions = self.extensions.values()
        return raw.certificate(key(kind, self.number), self.subject, issuer, *extensions, **options)


@dataclass
class Chain:
    """A chain to be made, leaf first; the last part is the root. ``anchored`` is the position of the anchor."""

    number: int
    purpose: str
    parts: list[Part]
    rng: random.Random
    labels: list[str] = field(default_factory=list)
    anchored: int | None = -1
    besides: Callable[[list[Raw]], list[Raw]] = lambda made: []
    sent: Callable[[list[Raw]], list[Raw]] = lambda made: made[1:-1]
    listed: Callable[[list[Raw]], list[bytes]] | None = None
    made: list[Raw] = field(default_factory=list)

    @property
    def leaf(self) -> Part:
        return self.parts[0]

    @property
    def middle(self) -> Part:
        return self.parts[1]

    @property
    def root(self) -> Part:
        return self.parts[-1]

    def name(self, role: str) -> bytes:
        """A name that no other chain has."""
        return raw.name((ORGANIZATION, utf8("Test")), (COMMON, utf8(f"{role} {self.number}")))

    def make(self) -> None:
        """Sign all certificates."""
        self.made = [self.root.make(None)]
        for part in reversed(self.parts[:-1]):
            self.made.insert(0, part.make(self.made[0]))

    @property
    def untrusted(self) -> list[bytes]:
        """The certificates that a peer sends after the leaf."""
        return [each.der for each in (*self.sent(self.made), *self.besides(self.made))]

    @property
    def anchors(self) -> list[bytes]:
        return [] if self.anchored is None else [self.made[self.anchored].der]

    @property
    def lists(self) -> list[bytes]:
        """Revocation lists of all issuers, if the chain is verified with them."""
        return [] if self.listed is None else self.listed(self.made)


def authority(length: int | None = None, *constraints: bytes) -> dict[str, bytes]:
    """Return the extensions of an authority."""
    found = {"basic": raw.basic_constraints(True, length), "usage": raw.key_usage(5, 6)}
    return found | ({"constraints": constraints[0]} if constraints else {})


def plain(number: int, rng: random.Random, purpose: str) -> Chain:
    """Return a chain that is accepted: one intermediate, or none or two."""
    chain = Chain(number, purpose, [], rng)
    kinds = [rng.choice(("p256", "p256", "p384", "rsa2048", "ed25519")) for _ in range(4)]
    usage = raw.SERVER if purpose == "sslserver" else raw.CLIENT
    leaf = {"names": raw.alternative_names(raw.dns(HOST)), "purposes": raw.extended_usage(usage)}
    chain.parts = [
        Part(kinds[0], 0, chain.name("leaf"), leaf),
        *(Part(kinds[1 + n], 1 + n, chain.name(f"middle {n}"), authority()) for n in range(rng.choice((1, 1, 2)))),
        Part(kinds[3], 9, chain.name("root"), authority()),
    ]
    return chain


def revocation_lists(made: list[Raw]) -> list[bytes]:
    """Return a current list of each issuer, on which nothing of the chain is."""
    return [raw.revocation_list(issuer, (12345,)) for issuer in made[1:]]


def lists_with(place: int, serial: int = 1, **options: object) -> Callable[[list[Raw]], list[bytes]]:
    """Return the lists with that of the issuer at `place` replaced."""

    def lists(made: list[Raw]) -> list[bytes]:
        others = [raw.revocation_list(issuer, (12345,)) for issuer in made[1:] if issuer is not made[place]]
        return [*others, raw.revocation_list(made[place], (serial,), **options)]

    return lists


def cross_signed(made: list[Raw]) -> list[Raw]:
    """Return another certificate of the lowest authority, which an unknown root issued."""
    other = raw.certificate(key("p256", 77), raw.common_name("elsewhere"), None, raw.basic_constraints(True))
    return [raw.certificate(made[1].key, made[1].subject, other, raw.basic_constraints(True), signs=made[1].signing)]


def expired_cross(made: list[Raw]) -> list[Raw]:
    """Return an expired certificate of the lowest authority."""
    dates = (raw.utc_time("200101000000Z"), raw.utc_time("210101000000Z"))
    return [raw.certificate(made[1].key, made[1].subject, made[2], raw.basic_constraints(True), dates=dates)]


def unknown_extension(critical: bool | None = None) -> bytes:
    return raw.extension("1.2.3", b"\5\0", critical)


def policies(*texts: str, critical: bool | None = None) -> bytes:
    return raw.extension("2.5.29.32", sequence(*(sequence(oid(text)) for text in texts)), critical)


def key_identifier(value: bytes) -> bytes:
    """Encode an authority key identifier."""
    return raw.extension("2.5.29.35", sequence(tlv(0x80, value)))


def all_names(constraint: str, bases: Iterable[bytes], critical: bool | None = True) -> bytes:
    """Encode constraints: `bases` are permitted or excluded."""
    return raw.name_constraints(**{constraint: tuple(bases)}, critical=critical)
