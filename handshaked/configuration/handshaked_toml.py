"""The configuration file: TOML, checked as a whole. What is not known or does not fit is refused with file and line.

Every setting has a default; ``Configuration()`` is what holds without a file. Files that it names are read when they
are needed, except by ``--check-config``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handshaked.configuration.toml_lines import TomlError, line_of, parsed_document
from handshaked.errors import RefusedError
from handshaked.registry.names import parse_alpn
from handshaked.registry.peer_rules import parse_rule
from handshaked.system.process import LEVELS

DEFAULT_PATH = Path("/etc/handshaked/handshaked.toml")
OWN_NAMESPACE = "."
"""Stands for the network namespace that the daemon is in."""
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class SideDefaults:
    """What handshakes of the kernel use on one side where neither the request nor a registration says otherwise.

    ``trust`` None: on a client the system's trust store, on a server no client certificates are asked for.
    ``peers`` are rules on the peer's certificate (``registry.authorisation``). A client's credential is for requests
    that name none, a server's for clients for whom nothing is registered. ``alpns`` are what a client offers, and what
    a server takes with a credential that is not a registration's.
    """

    trust: Path | None = None
    revocation_lists: tuple[Path, ...] = ()
    require_revocation_lists: bool = False
    certificate: Path | None = None
    private_key: Path | None = None
    peers: tuple[str, ...] = ()
    alpns: tuple[bytes, ...] = (b"sunrpc",)


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """The kernel's door. ``enabled`` None: where the daemon has the privilege for it (CAP_NET_ADMIN)."""

    enabled: bool | None = None
    network_namespaces: tuple[str, ...] = ()
    keyrings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Bounds: of requests of the kernel that one worker takes at a time, and of their time in seconds."""

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


class _MisfitError(Exception):
    """A value does not fit; the text says how."""


def load_configuration(path: Path, *, required: bool) -> Configuration:
    """The configuration in the file at `path`; the defaults if it is not there, unless it is `required`."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        if required:
            raise RefusedError(f"{path}: there is no such file") from None
        return Configuration()
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"{path}: cannot be read: {error}") from None
    return parse_configuration(text, str(path))


def parse_configuration(text: str, name: str) -> Configuration:
    """The configuration that `text` says; RefusedError names the file `name` and the line that is wrong."""
    try:
        tables = parsed_document(text)
    except TomlError as error:
        raise RefusedError(f"{name}:{error.line}: {error}") from None
    settings: dict[str, Any] = {}
    for table, content in tables.items():
        if table not in _TABLES:
            raise _refusal(name, text, (table,), f"there is no table or setting {table!r}; {_known(_TABLES)}")
        if not isinstance(content, dict):
            raise _refusal(name, text, (table,), f"{table} is a table: write [{table}] and its settings below")
        make, parsers = _TABLES[table]
        settings |= make(_parsed(table, content, parsers, name, text))
    return Configuration(**settings)


_Parser = Callable[[Any], Any]


def _parsed(
    table: str, content: Mapping[str, Any], parsers: Mapping[str, tuple[str, _Parser]], name: str, text: str
) -> dict[str, Any]:
    values = {}
    for key, value in content.items():
        if key not in parsers:
            raise _refusal(name, text, (table, key), f"[{table}] has no setting {key!r}; {_known(parsers)}")
        setting, parse = parsers[key]
        try:
            values[setting] = parse(value)
        except (_MisfitError, RefusedError) as fault:
            raise _refusal(name, text, (table, key), f"{key}: {fault}") from None
    if ("certificate" in content) != ("private_key" in content):
        key = "certificate" if "certificate" in content else "private_key"
        raise _refusal(name, text, (table, key), "certificate and private_key go together")
    for key in ("revocation_lists", "require_revocation_lists"):
        if key in content and "trust" not in content:
            raise _refusal(name, text, (table, key), f"{key} goes with trust")
    return values


def _refusal(name: str, text: str, place: tuple[str, ...], reason: str) -> RefusedError:
    return RefusedError(f"{name}:{line_of(text, place)}: {reason}")


def _known(names: Mapping[str, object]) -> str:
    return f"there are {', '.join(sorted(names))}"


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise _MisfitError("an absolute path is wanted")
    return Path(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _MisfitError("true or false is wanted")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise _MisfitError("a printable string is wanted")
    return value


def _namespace(value: Any) -> str:
    if not _NAMESPACE.fullmatch(_text(value)) or value == "..":
        raise _MisfitError(f"{value!r} is not the name of a network namespace (ip-netns(8))")
    return str(value)


def _level(value: Any) -> str:
    if value not in LEVELS:
        raise _MisfitError(f"one of {', '.join(LEVELS)} is wanted")
    return str(value)


def _rule(value: Any) -> str:
    parse_rule(_text(value))
    return str(value)


def _list_of(parse: _Parser) -> _Parser:
    def parse_list(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > 1024:
            raise _MisfitError("a list is wanted")
        return tuple(map(parse, value))

    return parse_list


def _number(low: float, high: float, *, whole: bool = False) -> _Parser:
    def parse_number(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
            raise _MisfitError(f"a {'whole ' if whole else ''}number from {low:g} to {high:g} is wanted")
        return value

    return parse_number


def _same(**parsers: _Parser) -> dict[str, tuple[str, _Parser]]:
    return {name: (name, parse) for name, parse in parsers.items()}


_seconds = _number(0.1, _LONGEST_TIMEOUT)
_SIDE: dict[str, tuple[str, _Parser]] = {
    **_same(trust=_path, certificate=_path, private_key=_path, require_revocation_lists=_flag, peers=_list_of(_rule)),
    "revocation_lists": ("revocation_lists", _list_of(_path)),
    "alpn": ("alpns", _list_of(lambda value: parse_alpn(_text(value)))),
}
_TABLES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], dict[str, tuple[str, _Parser]]]] = {
    "client": (lambda values: {"client": SideDefaults(**values)}, _SIDE),
    "server": (lambda values: {"server": SideDefaults(**values)}, _SIDE),
    "kernel": (
        lambda values: {"kernel": KernelSettings(**values)},
        _same(enabled=_flag, network_namespaces=_list_of(_namespace), keyrings=_list_of(_text)),
    ),
    "limits": (
        lambda values: {"limits": LimitSettings(**values)},
        _same(
            kernel_handshakes=_number(1, 65536, whole=True),
            client_timeout=_seconds,
            server_timeout=_seconds,
            longest_timeout=_seconds,
        ),
    ),
    "log": (lambda values: values, {"level": ("log_level", _level), "keylog": ("keylog", _path)}),
}
