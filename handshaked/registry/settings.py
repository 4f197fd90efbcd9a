"""The settings of a registration, as one table.

Each row gives a setting its name, type, default, help text and the package that obeys it. The options of ``handshakectl
register``, the keys of drop-in files, the words of the control socket and of D-Bus, ``show``, shell completion, manual
pages, the reference and the store's format are all made from the rows. A new setting of a handshake or of its delivery
is a field of ``Policy``, and code that obeys it.
"""

from dataclasses import dataclass, field, fields
from dataclasses import replace as with_changes
from typing import Any, TypeVar

from handshaked.errors import RefusedError
from handshaked.model import CipherSuite, Group
from handshaked.registry.delivery import parse_delivery
from handshaked.registry.names import SELF_TEST_SERVER_NAME, canonical_server_name, parse_alpn, show_alpn
from handshaked.registry.peer_rules import parse_rule
from handshaked.registry.setting_types import Choice, Each, File, Flag, Number, SettingType, Text

MAX_NAMES = 100
MAX_ALPNS = 32
MAX_RULES = 256
MAX_TICKETS = 4
MAX_GRACE = 8760  # hours: a year
MAX_USERS = 256
_CURVES = {"P256": "SECP256R1", "P384": "SECP384R1", "P521": "SECP521R1"}

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """A row: ``name`` is its word on the control socket and D-Bus, from which the other names are derived.

    ``option`` is its option on the command line if it has another name there. ``unset`` says what an empty value means,
    ``read_by`` which package obeys it. ``example`` is a plain value, for types whose values cannot be guessed.
    """

    name: str
    type: SettingType[Any]
    default: Any
    help: str
    option: str = ""
    metavar: str = ""
    unset: str = "-"
    read_by: str = "registry"
    example: Any = None

    @property
    def key(self) -> str:
        """Its key in drop-in files."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """Its option on the command line."""
        return self.option or f"--{self.key}"

    @property
    def bus_property(self) -> str:
        """The D-Bus property that shows it."""
        return "".join(word.capitalize() for word in self.name.split("_"))

    @property
    def label(self) -> str:
        """Its name in the output of ``handshakectl show``."""
        return self.name.replace("_", " ")

    def words(self, shown: Any) -> str:
        """Return `shown`, the plain value, as text for people."""
        return self.type.words(shown) or self.unset


def _server_name(name: str) -> str:
    canonical = canonical_server_name(name)
    if canonical == SELF_TEST_SERVER_NAME:
        raise RefusedError(f"server name {name!r} is reserved for the daemon's self-test")
    return canonical


def _cipher_suite(name: str) -> str:
    canonical = name.upper().removeprefix("TLS_")
    if canonical not in CipherSuite.__members__:
        raise RefusedError(f"unknown cipher suite {name!r}: use one of {', '.join(CipherSuite.__members__)}")
    return canonical


def _group(name: str) -> str:
    canonical = name.upper().replace("-", "")
    canonical = _CURVES.get(canonical, canonical)
    if canonical not in Group.__members__:
        raise RefusedError(f"unknown group {name!r}: use one of {', '.join(Group.__members__)}")
    return canonical


def _rule(text: str) -> str:
    parse_rule(text)
    return text


def _delivery(text: str) -> str:
    return parse_delivery(text).text


SERVER_NAMES = Setting(
    "server_names", Each(_server_name, "server name", MAX_NAMES), (),
    "server names, or *.name for all names one label below it (default: any name)",
    option="--server-name", metavar="N", unset="(any)", example=["www.example.com", "*.example.org"],
)  # fmt: skip
ALPNS = Setting(
    "alpns", Each(parse_alpn, "ALPN", MAX_ALPNS, show_alpn), (),
    "application protocols (ALPN) in order of preference; write unprintable bytes as \\xNN",
    option="--alpn", metavar="A", unset="(none)", example=["h3", "h2"],
)  # fmt: skip
ALLOW_USERS = Setting(
    "allow_users", Each(str, "user", MAX_USERS, shown_as="x"), (),
    "users who may use the registration besides its owner and root", option="--allow-user", metavar="U",
    example=["1000"],
)  # fmt: skip
ALLOW_GROUPS = Setting(
    "allow_groups", Each(str, "group", MAX_USERS, shown_as="x"), (),
    "groups whose members may use the registration", option="--allow-group", metavar="G",
    example=["1000"],
)  # fmt: skip
ALLOW_KERNEL = Setting("allow_kernel", Flag(), False, "let kernel upcalls use the registration")
ACCESS = (ALLOW_USERS, ALLOW_GROUPS, ALLOW_KERNEL)
SCOPE = (SERVER_NAMES, ALPNS, *ACCESS)
"""Purpose and users of a registration. Users and groups are given by name or number and shown by number."""


def _row(
    kind: SettingType[T],
    default: T,
    words: str,
    *,
    read_by: str = "handshakes",
    option: str = "",
    metavar: str = "",
    unset: str = "-",
    example: Any = None,
) -> T:
    """A field of ``Policy`` that is a row of the table."""
    row = Setting("", kind, default, words, option, metavar, unset, read_by, example)
    return field(default=default, metadata={Setting: row})


@dataclass(frozen=True, slots=True)
class Policy:
    """A registration's settings for its handshakes, and for ``handshaked-demux`` to deliver its connections.

    Values are plain (strings, numbers, tuples of strings); the store keeps those that differ from their defaults, by
    name. ``client_trust`` is no setting: it is the id under which the store keeps the content of ``client_ca`` and
    ``client_crl`` (0: the system's trust store).
    """

    client_trust: int = 0
    client_auth: str = _row(
        Choice(("none", "request", "require")),
        "none",
        "whether to ask clients for certificates (default: none)",
    )
    tickets: int = _row(
        Number(MAX_TICKETS),
        1,
        f"number of session tickets for each client, 0 to {MAX_TICKETS} (default: 1)",
    )
    early_data: bool = _row(Flag(), False, "permit 0-RTT data in resumed sessions, if the endpoint accepts it")
    cipher_suites: tuple[str, ...] = _row(
        Each(_cipher_suite, "cipher suite"),
        (),
        "allowed cipher suites in order of preference",
        option="--cipher-suite",
        metavar="C",
        unset="(default)",
        example=[list(CipherSuite)[1].name],
    )
    groups: tuple[str, ...] = _row(
        Each(_group, "group"),
        (),
        "allowed key exchange groups in order of preference",
        option="--group",
        metavar="G",
        unset="(default)",
        example=["X25519"],
    )
    peers: tuple[str, ...] = _row(
        Each(_rule, "rule", MAX_RULES),
        (),
        "rules on the certificates of kernel peers, such as 'allow san=dns:*.a tag=b'",
        option="--peer",
        metavar="RULE",
        unset="(any)",
        example=["allow san=dns:*.example.com tag=ours"],
    )
    crl_grace: int = _row(
        Number(MAX_GRACE),
        0,
        f"hours after its nextUpdate in which a revocation list is still accepted, 0 to {MAX_GRACE} (default: 0)",
    )
    lost_names: str = _row(
        Choice(("refuse", "accept")),
        "refuse",
        "what to do with a renewed certificate that no longer covers a server name: refuse (default) keeps the old one"
        " until it expires",
        read_by="control",
    )
    deliver: str = _row(
        Text(_delivery, "`accept`, `relay` or `forward ADDRESS:PORT`", several_words=True),
        "accept",
        "how handshaked-demux delivers connections: accept (default), relay, or forward ADDRESS:PORT",
        metavar="HOW",
        read_by="demux",
        example="relay",
    )
    proxy_protocol: bool = _row(
        Flag(), False, "prepend a PROXY protocol v2 header to forwarded connections", read_by="demux",
    )  # fmt: skip


def policy_settings(policy: type[Policy]) -> tuple[Setting, ...]:
    """Return the rows that are fields of `policy`."""
    return tuple(
        with_changes(one.metadata[Setting], name=one.name) for one in fields(policy) if Setting in one.metadata
    )


POLICY = policy_settings(Policy)

CLIENT_CA = Setting(
    "client_ca", File(), "", "PEM file with trust anchors for client certificates (default: the system's trust store)",
    unset="(the system's)",
)  # fmt: skip
CLIENT_CRL = Setting(
    "client_crl", File(), "", "file with revocation lists (PEM or DER) for client certificates; requires client-ca",
    unset="(none)",
)  # fmt: skip
TRUST = (CLIENT_CA, CLIENT_CRL)
"""Files whose content the store keeps as ``Policy.client_trust``."""

SETTINGS = (*SCOPE, *POLICY, *TRUST)
"""All settings of a registration, besides its name and credentials."""

REPLACE = Setting("replace", Flag(), False, "replace the registration of that name")
FORCE = Setting("force", Flag(), False, "accept expired or not yet valid certificates, for testing")

CREDENTIAL = (
    Setting(
        "certificate", File(), "", "PEM file with the certificate chain, leaf first",
        option="--cert",
    ),
    Setting("key", File(), "", "PEM file with the private key of the certificate", unset="(in the same file)"),
    Setting("passphrase", File(), "", "file with the passphrase of the private key", option="--passphrase-file"),
    Setting("ocsp", File(), "", "DER file with the OCSP response to staple"),
)  # fmt: skip
"""The files of one credential, of which a registration has a list."""
