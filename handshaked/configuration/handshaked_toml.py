"""Read ``handshaked.toml``, the daemon's settings. Unknown or invalid settings are refused with file and line.

Every setting has a default; ``Configuration()`` applies without a file. TABLES describes all settings; the manual page
handshaked.toml(5) is generated from it. The files that settings name are read when they are needed, except by
``--check-config``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handshaked.configuration.toml_lines import TomlError, decoded, line_of, parsed_document
from handshaked.errors import RefusedError
from handshaked.registry.names import parse_alpn
from handshaked.registry.peer_rules import parse_rule
from handshaked.registry.settings import MAX_GRACE
from handshaked.system.capabilities import Capability
from handshaked.system.process import LEVELS

DEFAULT_PATH = Path("/etc/handshaked/handshaked.toml")
OWN_NAMESPACE = "."
"""The name of the daemon's own network namespace."""
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class SideDefaults:
    """Defaults of one side of kernel handshakes, for what neither the request nor a registration specifies.

    ``trust`` None: a client uses the system's trust store, a server requests no client certificate. ``peers`` are rules
    on the peer's certificate (``registry.peer_rules``). ``revocation_list_grace`` is in hours. A client's credential is
    for requests that name none, a server's for clients that match no registration. ``alpns`` are what a client offers,
    and what a server accepts with a credential that belongs to no registration.
    """

    trust: Path | None = None
    revocation_lists: tuple[Path, ...] = ()
    require_revocation_lists: bool = False
    revocation_list_grace: float = 0.0
    certificate: Path | None = None
    private_key: Path | None = None
    peers: tuple[str, ...] = ()
    alpns: tuple[bytes, ...] = (b"sunrpc",)


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """Kernel upcalls. ``enabled`` None: they are handled if the daemon has CAP_NET_ADMIN."""

    enabled: bool | None = None
    network_namespaces: tuple[str, ...] = ()
    keyrings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Limits: concurrent kernel requests per worker, and timeouts in seconds."""

    kernel_handshakes: int = 1024
    client_timeout: float = 8.0
    server_timeout: float = 4.5
    longest_timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Configuration:
    """All settings."""

    client: SideDefaults = field(default=SideDefaults())
    server: SideDefaults = field(default=SideDefaults())
    kernel: KernelSettings = field(default=KernelSettings())
    limits: LimitSettings = field(default=LimitSettings())
    log_level: str | None = None
    keylog: Path | None = None


class _InvalidError(Exception):
    """A value is invalid; the text completes "SETTING: "."""


def upcall_capabilities(namespaces: Sequence[str]) -> set[Capability]:
    """Return what handling the kernel upcalls of `namespaces` needs: accepting requests, entering the namespaces."""
    elsewhere = any(name != OWN_NAMESPACE for name in namespaces)
    return {Capability.NET_ADMIN, *([Capability.SYS_ADMIN] if elsewhere else [])}


def load_configuration(path: Path, *, required: bool) -> Configuration:
    """Return the configuration in the file at `path`, or the defaults if the file does not exist and is not `required`.

    RefusedError names the file, the line and what is wrong.
    """
    return parse_configuration(read_configuration(path, required=required), str(path))


def read_configuration(path: Path, *, required: bool) -> str:
    """Return the text of the file at `path`, "" if it does not exist and is not `required`; RefusedError as above."""
    try:
        return decoded(path.read_bytes())
    except FileNotFoundError:
        if required:
            raise RefusedError(f"{path}: no such file") from None
        return ""
    except OSError as error:
        raise RefusedError(f"{path}: cannot be read: {error.strerror}") from None
    except TomlError as error:
        raise RefusedError(f"{path}:{error.line}: {error}") from None


def parse_configuration(text: str, name: str) -> Configuration:
    """Return the configuration in `text`. RefusedError names the file `name` and the line that is wrong."""
    try:
        tables = parsed_document(text)
    except TomlError as error:
        raise RefusedError(f"{name}:{error.line}: {error}") from None
    settings: dict[str, Any] = {}
    for table, content in tables.items():
        if table not in TABLES:
            raise _refusal(name, text, (table,), f"unknown table or setting {table!r}; {_known(TABLES)}")
        if not isinstance(content, dict):
            raise _refusal(name, text, (table,), f"{table} must be a table: write [{table}] and its settings below")
        settings |= TABLES[table].make(_parsed(table, content, name, text))
    return Configuration(**settings)


_Parser = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: its key, its parser, and what its manual page says. ``attribute`` is its name in Configuration."""

    key: str
    parse: _Parser
    kind: str
    default: str
    help: str
    attribute: str = ""

    def __post_init__(self) -> None:
        if not self.attribute:
            object.__setattr__(self, "attribute", self.key)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the file: what it is about, what makes arguments of Configuration from its values, its settings."""

    help: str
    make: Callable[[dict[str, Any]], dict[str, Any]]
    settings: tuple[Setting, ...]


def _parsed(table: str, content: Mapping[str, Any], name: str, text: str) -> dict[str, Any]:
    known = {setting.key: setting for setting in TABLES[table].settings}
    values = {}
    for key, value in content.items():
        if key not in known:
            raise _refusal(name, text, (table, key), f"[{table}] has no setting {key!r}; {_known(known)}")
        try:
            values[known[key].attribute] = known[key].parse(value)
        except (_InvalidError, RefusedError) as error:
            raise _refusal(name, text, (table, key), f"{key}: {error}") from None
    if ("certificate" in content) != ("private_key" in content):
        key, other = ("certificate", "private_key") if "certificate" in content else ("private_key", "certificate")
        raise _refusal(name, text, (table, key), f"{key} requires {other}")
    for key in ("revocation_lists", "require_revocation_lists", "revocation_list_grace"):
        if key in content and "trust" not in content:
            raise _refusal(name, text, (table, key), f"{key} requires trust (the CA certificates)")
    return values


def _refusal(name: str, text: str, place: tuple[str, ...], reason: str) -> RefusedError:
    return RefusedError(f"{name}:{line_of(text, place)}: {reason}")


def _known(names: Mapping[str, object]) -> str:
    return f"known names: {', '.join(sorted(names))}"


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise _InvalidError("must be an absolute path")
    return Path(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _InvalidError("must be true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise _InvalidError("must be a printable string")
    return value


def _namespace(value: Any) -> str:
    if not _NAMESPACE.fullmatch(_text(value)) or value == "..":
        raise _InvalidError(f"{value!r} is not the name of a network namespace (ip-netns(8))")
    return str(value)


def _level(value: Any) -> str:
    if value not in LEVELS:
        raise _InvalidError(f"must be one of {', '.join(LEVELS)}")
    return str(value)


def _rule(value: Any) -> str:
    parse_rule(_text(value))
    return str(value)


def _alpn(value: Any) -> bytes:
    return parse_alpn(_text(value))


def _list_of(parse: _Parser) -> _Parser:
    def parse_list(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > 1024:
            raise _InvalidError("must be a list of at most 1024 values")
        return tuple(map(parse, value))

    return parse_list


def _number(low: float, high: float, *, whole: bool = False) -> _Parser:
    def parse_number(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
            raise _InvalidError(f"must be {'an integer' if whole else 'a number'} from {low:g} to {high:g}")
        return value

    return parse_number


_seconds = _number(0.1, _LONGEST_TIMEOUT)


def _side(trust: str, credential: str, alpn: str) -> tuple[Setting, ...]:
    """Return the settings of one side; the arguments are the help texts in which the sides differ."""
    return (
        Setting("trust", _path, "path", "", trust),
        Setting(
            "revocation_lists", _list_of(_path), "list of paths", "[]",
            "Files of certificate revocation lists. Requires trust.",
        ),
        Setting(
            "require_revocation_lists", _flag, "boolean", "false",
            "Reject a peer whose issuer has no revocation list. Requires trust.",
        ),
        Setting(
            "revocation_list_grace", _number(0, MAX_GRACE), "hours", "0",
            "Hours after its nextUpdate in which a revocation list is still accepted. Requires trust.",
        ),
        Setting("certificate", _path, "path", "", credential),
        Setting("private_key", _path, "path", "", "PEM private key of the certificate."),
        Setting(
            "peers", _list_of(_rule), "list of rules", "[]",
            "Rules on the peer's certificate that allow, deny, and give tags.",
        ),
        Setting("alpn", _list_of(_alpn), "list of protocols", '["sunrpc"]', alpn, "alpns"),
    )  # fmt: skip


TABLES: Mapping[str, Table] = {
    "client": Table(
        "Kernel consumers that connect to a server, such as NFS mounts.",
        lambda values: {"client": SideDefaults(**values)},
        _side(
            "CA certificates that servers are verified with (default: the system's trust store).",
            "PEM certificate chain for requests that name no credential.",
            "Application protocols to offer.",
        ),
    ),
    "server": Table(
        "Kernel consumers that accept connections, such as the NFS server.",
        lambda values: {"server": SideDefaults(**values)},
        _side(
            "CA certificates that clients are verified with. Without it, clients are not asked for certificates.",
            "PEM certificate chain for clients that match no registration.",
            "Application protocols to accept with that certificate.",
        ),
    ),
    "kernel": Table(
        "Kernel upcalls.",
        lambda values: {"kernel": KernelSettings(**values)},
        (
            Setting(
                "enabled", _flag, "boolean", "",
                "Handle kernel upcalls (default: if the daemon has CAP_NET_ADMIN).",
            ),
            Setting(
                "network_namespaces", _list_of(_namespace), "list of names", '["."]',
                "Network namespaces, as ip-netns(8) names them, whose upcalls are handled; . is the daemon's own.",
            ),
            Setting(
                "keyrings", _list_of(_text), "list of names", "[]",
                "Keyrings to link, so that their keys are found.",
            ),
        ),
    ),
    "limits": Table(
        "Limits of kernel requests.",
        lambda values: {"limits": LimitSettings(**values)},
        (
            Setting(
                "kernel_handshakes", _number(1, 65536, whole=True), "integer", "1024",
                "Maximum number of concurrent kernel requests per worker.",
            ),
            Setting("client_timeout", _seconds, "seconds", "8", "Time limit of a client handshake."),
            Setting("server_timeout", _seconds, "seconds", "4.5", "Time limit of a server handshake."),
            Setting("longest_timeout", _seconds, "seconds", "60", "Longest time limit that a request may ask for."),
        ),
    ),
    "log": Table(
        "The log.",
        lambda values: values,
        (
            Setting(
                "level", _level, "string", '"info"', f"Least severe messages to log: {', '.join(LEVELS)}.",
                "log_level",
            ),
            Setting(
                "keylog", _path, "path", "",
                "For debugging: file that the secrets of all connections are appended to, in SSLKEYLOGFILE format."
                " Whoever can read it can decrypt them.",
            ),
        ),
    ),
}  # fmt: skip
"""All settings, by table."""
