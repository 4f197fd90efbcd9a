"""The peculiarities that chains of the corpus have, by label: each changes a chain that is accepted."""

from __future__ import annotations

from collections.abc import Callable

from tests import raw_certificates as raw
from tests.certificates import key
from tests.interop import corpus
from tests.interop.corpus import Chain, Part, all_names, authority, lists_with, policies, unknown_extension
from tests.raw_certificates import Signing, address, directory, dns, mail, other_name, sequence, tlv, uri, utf8

ALONE = "leaf alone, its own root"
Change = Callable[[Chain], object]

_DATES = {
    "expired": (raw.utc_time("200101000000Z"), raw.utc_time("210101000000Z")),
    "not yet valid": (raw.utc_time("280101000000Z"), raw.utc_time("290101000000Z")),
    "GeneralizedTime before 2050": (raw.generalized_time("20200101000000Z"), raw.generalized_time("20300101000000Z")),
    "GeneralizedTime after 2050": (raw.utc_time("200101000000Z"), raw.generalized_time("99991231235959Z")),
    "UTCTime of the last century": (raw.utc_time("500101000000Z"), raw.utc_time("491231235959Z")),
    "dates exchanged": (raw.utc_time("300101000000Z"), raw.utc_time("200101000000Z")),
}
_KEYS = ("p256", "p384", "p521", "rsa2048", "rsa1024", "ed25519", "ed448", "k256", "p192", *corpus.PSS_KINDS)
_SIGNINGS = {
    "sha1": Signing("sha1"),
    "sha224": Signing("sha224"),
    "sha384": Signing("sha384"),
    "sha512": Signing("sha512"),
    "pss": Signing(pss=True),
    "pss with a salt of 20": Signing(pss=True, salt=20),
    "pss with MGF1 of SHA-384": Signing(pss=True, mask_digest="sha384"),
    "pss with SHA-1": Signing("sha1", pss=True, salt=20),
}
_USAGES = ((0,), (2,), (4,), (5,), (6,), (0, 5, 6), ())
_TLS_FEATURE = raw.extension("1.3.6.1.5.5.7.1.24", sequence(raw.integer(5)), True)
_PURPOSES = {
    "servers": (raw.SERVER,),
    "clients": (raw.CLIENT,),
    "both": (raw.SERVER, raw.CLIENT),
    "any": (raw.ANY_USAGE,),
    "code": ("1.3.6.1.5.5.7.3.3",),
    "none": (),
}
_NAMES = {
    "wildcard": (dns("*.example"),),
    "wildcard below": (dns("*.a.example"),),
    "other host": (dns("b.example"),),
    "upper case": (dns("A.EXAMPLE"),),
    "trailing dot": (dns("a.example."),),
    "underscore": (dns("_a.example"), dns("a.example")),
    "address": (address(bytes((192, 0, 2, 1))), dns("a.example")),
    "URI": (uri("spiffe://a.example/x"), dns("a.example")),
    "mail": (mail("a@a.example"), dns("a.example")),
    "directory": (directory(raw.common_name("x")), dns("a.example")),
    "other": (other_name("1.2.3.4", utf8("x")), dns("a.example")),
    "registered ID": (raw.registered_id("1.2.3"), dns("a.example")),
    "x400": (tlv(0xA3, sequence()), dns("a.example")),
    "EDI": (tlv(0xA5, tlv(0xA1, utf8("x"))), dns("a.example")),
    "empty DNS": (dns(""), dns("a.example")),
    "none": (),
}
_BASES = {
    "DNS": dns("example"),
    "DNS exact": dns("a.example"),
    "DNS with a dot": dns(".example"),
    "DNS elsewhere": dns("test"),
    "DNS empty": dns(""),
    "URI": uri("a.example"),
    "URI with a dot": uri(".example"),
    "URI elsewhere": uri("test"),
    "mail": mail("a.example"),
    "mailbox": mail("a@a.example"),
    "mail with a dot": mail(".example"),
    "mail elsewhere": mail("test"),
    "address": address(bytes((192, 0, 2, 0, 255, 255, 255, 0))),
    "address elsewhere": address(bytes((192, 0, 3, 0, 255, 255, 255, 0))),
    "address of version 6": address(bytes(32)),
    "directory": directory(raw.name((corpus.ORGANIZATION, utf8("Test")))),
    "directory in other case": directory(raw.name((corpus.ORGANIZATION, utf8("tEST ")))),
    "directory elsewhere": directory(raw.name((corpus.ORGANIZATION, utf8("Other")))),
    "other": other_name("1.2.3.4", utf8("x")),
    "registered ID": raw.registered_id("1.2.3"),
}


def _usage(bits: tuple[int, ...]) -> bytes:
    return raw.key_usage(*bits)


def _at(place: str, extension: str, value: bytes) -> Change:
    """Return the change that sets an extension of the leaf, an intermediate or the root."""
    return lambda chain: getattr(chain, place).extensions.__setitem__(extension, value)


def _without(place: str, extension: str) -> Change:
    return lambda chain: getattr(chain, place).extensions.pop(extension, None)


def _option(place: str, **options: object) -> Change:
    return lambda chain: getattr(chain, place).options.update(options)


def _key(place: str, kind: str) -> Change:
    return lambda chain: setattr(getattr(chain, place), "kind", kind)


def _set(**fields: object) -> Change:
    def change(chain: Chain) -> None:
        for name, value in fields.items():
            setattr(chain, name, value)

    return change


def _bare(place: str) -> Change:
    return lambda chain: getattr(chain, place).extensions.clear()


def _all(*changes: Change) -> Change:
    return lambda chain: [change(chain) for change in changes]


def _signed(place: str, signing: Signing) -> Change:
    def change(chain: Chain) -> None:
        position = 0 if place == "leaf" else 1
        if "pss" not in chain.parts[position + 1].kind:
            chain.parts[position + 1].kind = "rsa2048"
        chain.parts[position].options["signing"] = signing

    return change


def _subject(place: str, subject: Callable[[Chain], bytes]) -> Change:
    return lambda chain: setattr(getattr(chain, place), "subject", subject(chain))


def _constrained(place: str, value: bytes) -> Change:
    """Return the change that constrains names; the leaf has names of all forms, or one, or none."""

    def change(chain: Chain) -> None:
        getattr(chain, place).extensions["constraints"] = value
        comparable = [label for label in _NAMES if label not in ("x400", "EDI")]
        texts = _NAMES[chain.rng.choice(comparable)]
        chain.leaf.extensions["names"] = raw.alternative_names(*(texts or (dns("a.example"),)))

    return change


def _rolled_over(chain: Chain) -> None:
    """Add an intermediate that has the name of its issuer and another key."""
    chain.parts.insert(1, Part("p256", 50, chain.middle.subject, authority()))


def _more(chain: Chain) -> None:
    chain.parts.insert(1, Part("p256", 51, chain.name("lower"), authority()))


def _case_of_issuer(chain: Chain) -> None:
    """Make the leaf name its issuer in lower case."""
    chain.leaf.options["issuer_name"] = raw.name(
        (corpus.ORGANIZATION, utf8("TEST")), (corpus.COMMON, utf8(f"middle 0 {chain.number}"))
    )


EVERYWHERE: dict[str, Change] = {
    f"{place}: {label}": change
    for place in ("leaf", "middle", "root")
    for label, change in (
        *((label, _option(place, dates=dates)) for label, dates in _DATES.items()),
        *((f"key {kind}", _key(place, kind)) for kind in _KEYS),
        *((f"for {label}", _at(place, "purposes", raw.extended_usage(*oids))) for label, oids in _PURPOSES.items()),
        ("for both, critical", _at(place, "purposes", raw.extended_usage(raw.SERVER, raw.CLIENT, critical=True))),
        *((f"usage {bits}", _at(place, "usage", _usage(bits))) for bits in _USAGES),
        ("usage not critical", _at(place, "usage", raw.key_usage(0, 5, 6, critical=None))),
        ("basic constraints left out", _without(place, "basic")),
        ("basic constraints empty", _at(place, "basic", raw.basic_constraints(None))),
        ("basic constraints not critical", _at(place, "basic", raw.basic_constraints(True, critical=None))),
        ("encodes cA FALSE", _at(place, "basic", raw.basic_constraints(False))),
        ("path length without cA", _at(place, "basic", raw.basic_constraints(None, 0))),
        ("path length 0", _at(place, "basic", raw.basic_constraints(True, 0))),
        ("path length 1", _at(place, "basic", raw.basic_constraints(True, 1))),
        ("serial number 0", _option(place, serial=0)),
        ("serial number negative", _option(place, serial=-1)),
        ("serial number long", _option(place, serial=1 << 200)),
        ("unknown extension", _at(place, "unknown", unknown_extension())),
        ("unknown critical extension", _at(place, "unknown", unknown_extension(critical=True))),
        ("encodes critical FALSE", _at(place, "unknown", unknown_extension(critical=False))),
        ("extension twice", _at(place, "unknown", unknown_extension() + unknown_extension())),
        ("policies", _at(place, "policies", policies("1.2.3.4"))),
        ("critical policies", _at(place, "policies", policies("1.2.3.4", critical=True))),
        ("policy constraints", _at(place, "policy", raw.extension("2.5.29.36", sequence(tlv(0x81, b"\0")), True))),
        ("inhibits any policy", _at(place, "policy", raw.extension("2.5.29.54", raw.integer(0), True))),
        ("foreign key identifier", _at(place, "authority", corpus.key_identifier(b"x" * 20))),
        ("critical TLS feature", _at(place, "feature", _TLS_FEATURE)),
        ("critical distribution points", _at(place, "points", raw.extension("2.5.29.31", sequence(), True))),
    )
}  # fmt: skip
NAMES: dict[str, Change] = {
    "leaf: no subject": _subject("leaf", lambda chain: raw.name()),
    **{f"names: {label}": _at("leaf", "names", raw.alternative_names(*names)) for label, names in _NAMES.items()},
    "names: critical": _at("leaf", "names", raw.alternative_names(dns("a.example"), critical=True)),
    "names: left out": _without("leaf", "names"),
    "common name alone": _all(_without("leaf", "names"), _subject("leaf", lambda chain: raw.common_name("a.example"))),
    "common name of another host": _subject("leaf", lambda chain: raw.common_name("b.test")),
}
CONSTRAINTS: dict[str, Change] = {
    **{
        f"{place}: {kind} {label}{'' if critical else ', not critical'}": _constrained(
            place, all_names(kind, (base,), critical)
        )
        for place in ("middle", "root")
        for kind in ("permitted", "excluded")
        for label, base in _BASES.items()
        for critical in (True, None)
    },
    "constraints: gaps in the mask": _constrained(
        "middle", all_names("permitted", (address(bytes((10, 0, 0, 0, 255, 0, 255, 0))),))
    ),
    "constraints: a minimum": _constrained(
        "middle", raw.extension("2.5.29.30", sequence(tlv(0xA0, sequence(dns("example"), tlv(0x80, b"\1")))), True)
    ),
    "constraints: none": _constrained("middle", raw.extension("2.5.29.30", sequence(), True)),
    "constraints: a wildcard for an excluded name": _all(
        _at("middle", "constraints", all_names("excluded", (dns("b.a.example"),))),
        _at("leaf", "names", raw.alternative_names(dns("*.a.example"), dns("a.example"))),
    ),
    "constraints: a name with a trailing dot": _all(
        _at("middle", "constraints", all_names("excluded", (dns("b.example"),))),
        _at("leaf", "names", raw.alternative_names(dns("b.example."), dns("a.example"))),
    ),
    "constraints: a common name elsewhere": _all(
        _at("middle", "constraints", all_names("permitted", (dns("example"),))),
        _without("leaf", "names"),
        _subject("leaf", lambda chain: raw.common_name("a.test")),
    ),
    "constraints: of the leaf": _at("leaf", "constraints", all_names("permitted", (dns("test"),))),
}
SIGNATURES: dict[str, Change] = {
    f"{place}: signed with {label}": _signed(place, signing)
    for place in ("leaf", "middle")
    for label, signing in _SIGNINGS.items()
}
SHAPES: dict[str, Change] = {
    "plain": lambda chain: None,
    "another intermediate": _more,
    "intermediate with its issuer's name": _rolled_over,
    "unknown root": _set(anchored=None),
    "intermediate is the anchor": _set(anchored=1),
    "leaf is the anchor": _set(anchored=0),
    "intermediates left out": _set(sent=lambda made: []),
    "root sent": _set(sent=lambda made: made[1:]),
    "reversed": _set(sent=lambda made: made[:0:-1]),
    "cross-signed": _set(besides=corpus.cross_signed, sent=lambda made: made[:0:-1]),
    "cross-signed, expired": _set(besides=corpus.expired_cross),
    "leaf of version 1": _all(_bare("leaf"), _option("leaf", version=None)),
    "root of version 1": _all(_bare("root"), _option("root", version=None)),
    "intermediate of version 1": _all(_bare("middle"), _option("middle", version=None)),
    "encodes version 1": _all(_bare("leaf"), _option("leaf", version=0)),
    "root without basic constraints, with usage": _without("root", "basic"),
    ALONE: lambda chain: _set(parts=[chain.leaf], anchored=0)(chain),
    "issuer in other case": _case_of_issuer,
}
LISTS: dict[str, Change] = {
    "lists": _set(listed=corpus.revocation_lists),
    "leaf revoked": _set(listed=lists_with(1, 7)),
    "intermediate revoked": _set(listed=lists_with(2, 7)),
    "list left out": _set(listed=lambda made: corpus.revocation_lists(made)[1:]),
    "list out of date": _set(listed=lists_with(1, dates=_DATES["expired"])),
    "list of the future": _set(listed=lists_with(1, dates=_DATES["not yet valid"])),
    "list with a critical extension": _set(listed=lists_with(1, extensions=(unknown_extension(critical=True),))),
    "list of users only": _set(
        listed=lists_with(1, 7, extensions=(raw.extension("2.5.29.28", sequence(tlv(0x81, b"\xff")), True),))
    ),
    "list of authorities only": _set(
        listed=lists_with(1, 7, extensions=(raw.extension("2.5.29.28", sequence(tlv(0x82, b"\xff")), True),))
    ),
    "issuer may not sign lists": _all(_set(listed=corpus.revocation_lists), _at("middle", "usage", raw.key_usage(5))),
    "list signed by another": _set(
        listed=lambda made: [
            raw.revocation_list(raw.Raw(b"", key("p256", 66), made[1].subject), ()),
            *corpus.revocation_lists(made)[1:],
        ]
    ),
}
ALL = {**EVERYWHERE, **NAMES, **CONSTRAINTS, **SIGNATURES, **SHAPES, **LISTS}
