"""``import-tlshd``: convert the configuration of ktls-utils' tlshd to settings and registrations of handshaked.

tlshd.conf(5) becomes ``handshaked.toml`` and a file in ``registrations.d``; tls-session-tags(7) become rules that give
tags. Settings that cannot be expressed are left out and reported.
"""

import argparse
import configparser
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handshaked.configuration.handshaked_toml import parse_configuration
from handshaked.errors import RefusedError
from handshaked.handshakes.keyring import WELL_KNOWN
from handshaked.registry.peer_rules import parse_rule
from handshaked.system import directories
from handshaked.tls.x509.text_file import pull_text

_MAX_FILE = 1024 * 1024
_FILES = (Path("etc/tlshd/config"), Path("etc/tlshd.conf"))
_TAGS = Path("etc/tlshd/tags.d")
_NAME_FIELDS = {"x509.tbs.subject": "subject", "x509.tbs.issuer": "issuer"}
_DEBUG_LEVELS = ("loglevel", "tls", "nl")
_SIDE_SETTINGS = frozenset(
    (
        "x509.truststore", "x509.crl", "x509.certificate", "x509.private_key", "x509.pq.certificate",
        "x509.pq.private_key",
    )
)  # fmt: skip
_SETTINGS: Mapping[str, frozenset[str]] = {
    "debug": frozenset((*_DEBUG_LEVELS, "delay_done")),
    "authenticate": frozenset(("keyrings",)),
    "authenticate.client": _SIDE_SETTINGS,
    "authenticate.server": _SIDE_SETTINGS,
}
"""All settings of tlshd 1.4, by section."""
_FINGERPRINT = re.compile(r"[0-9a-fA-F]{64}")
_URL = re.compile(r"[a-z][a-z0-9+.-]*:")
Sections = Mapping[str, Mapping[str, str]]


@dataclass(slots=True)
class Import:
    """The rules for peers that were found, and what had to be left out."""

    rules: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def import_tlshd(arguments: argparse.Namespace) -> int:
    """Run ``import-tlshd``; return 1 if something had to be left out."""
    source = arguments.config or _configuration_file(arguments.root)
    found = Import()
    sections = _sections(source)
    _report_unknown(sections, found)
    read_tags(arguments.tags or arguments.root / _TAGS, found)
    settings = settings_of(sections, source, found)
    registrations = registrations_of(sections, source)
    parse_configuration(settings, "the imported settings")
    into: Path = arguments.into or arguments.root / "etc/handshaked"
    files = {into / "handshaked.toml": settings}
    if registrations:
        files[into / directories.DROP_INS / "tlshd.toml"] = registrations
    if arguments.print:
        print("\n".join(f"# {path}\n{content}" for path, content in files.items()), end="")
    else:
        _write(files)
    for words in found.left_out:
        print(f"handshakectl: left out: {words}", file=sys.stderr)
    return 1 if found.left_out else 0


def _configuration_file(root: Path) -> Path:
    for path in _FILES:
        if (root / path).exists():
            return root / path
    raise RefusedError(
        f"{' and '.join(str(root / path) for path in _FILES)} do not exist: name the file of tlshd with --config"
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from None
    if len(content) > _MAX_FILE:
        raise RefusedError(f"{path}: larger than {_MAX_FILE} bytes")
    try:
        return pull_text(content, str(path)).decode()
    except UnicodeDecodeError as error:
        raise RefusedError(f"{path}: not UTF-8: {error.reason}") from None


def _write(files: Mapping[Path, str]) -> None:
    for path in files:
        if path.exists():
            raise RefusedError(f"{path} exists: move it away, or merge what --print shows")
    for path, content in files.items():
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
        except OSError as error:
            raise RefusedError(f"{path}: {error.strerror}") from None
        print(f"wrote {path}")


# tlshd.conf(5)


def _sections(path: Path) -> Sections:
    """Return the sections of the GLib key file at `path`."""
    parser = configparser.RawConfigParser(
        delimiters=("=",), comment_prefixes=("#",), strict=False, default_section="", empty_lines_in_values=False
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign] # the documented way to keep the case
    # GLib ignores the indentation of lines; here it would continue the value of the line before.
    lines = [line.strip() for line in _read(path).splitlines()]
    try:
        parser.read_string("\n".join(lines), source=str(path))
    except configparser.Error as error:
        raise RefusedError(" ".join(str(error).split())) from None
    return {name: {key: value.strip() for key, value in parser[name].items() if value.strip()} for name in parser}


def _report_unknown(sections: Sections, found: Import) -> None:
    for name, section in sections.items():
        if name not in _SETTINGS:
            if section:
                found.left_out.append(f"section [{name}]: not known; known sections: {', '.join(_SETTINGS)}")
            continue
        found.left_out += [f"{key} in [{name}]: not known" for key in section if key not in _SETTINGS[name]]


def settings_of(sections: Sections, source: Path, found: Import) -> str:
    """Return the content of ``handshaked.toml`` for `sections`."""
    tables = {
        "kernel": _kernel(sections.get("authenticate", {}), found),
        "client": _side("client", sections, found),
        "server": _side("server", sections, found),
        "log": _log(sections.get("debug", {}), found),
    }
    lines = [f"# Imported from {source}"]
    for name, table in tables.items():
        if table:
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _kernel(section: Mapping[str, str], found: Import) -> dict[str, Any]:
    named = [one.strip() for one in section.get("keyrings", "").split(";")]
    wanted = [one for one in named if one and one not in WELL_KNOWN]
    for serial in filter(str.isdecimal, wanted):
        found.left_out.append(f"keyring {serial}: serial numbers change at every boot; use the name of the keyring")
    names = [one for one in wanted if not one.isdecimal()]
    return {"keyrings": names} if names else {}


def _log(section: Mapping[str, str], found: Import) -> dict[str, Any]:
    if _number(section, "delay_done"):
        found.left_out.append("delay_done: handshaked does not delay results")
    return {"level": "debug"} if any(_number(section, key) for key in _DEBUG_LEVELS) else {}


def _number(section: Mapping[str, str], key: str) -> int:
    """Return a number as tlshd reads it: 0 if it is missing or invalid."""
    try:
        return int(section.get(key, "0"))
    except ValueError:
        return 0


def _side(role: str, sections: Sections, found: Import) -> dict[str, Any]:
    section = sections.get(f"authenticate.{role}", {})
    table: dict[str, Any] = {}
    if trust := section.get("x509.truststore"):
        table["trust"] = trust
    elif role == "server" and "x509.certificate" in section:
        found.left_out.append("verification of clients: tlshd uses the system's trust store; set trust in [server]")
    if revocations := section.get("x509.crl"):
        if trust:
            table["revocation_lists"] = [revocations]
        else:
            found.left_out.append(f"x509.crl of the {role}: revocation lists require x509.truststore")
    pairs = _credentials(role, section, found)
    if pairs:  # a server's: for clients that match no registration, such as those with another ALPN than RPC's
        table["certificate"], table["private_key"] = pairs[0]
    if role == "client":
        for certificate, _ in pairs[1:]:
            found.left_out.append(f"{certificate}: handshaked has one client certificate")
    if found.rules and role == "server":  # tlshd tags clients only
        table["peers"] = found.rules
    return table


def registrations_of(sections: Sections, source: Path) -> str:
    """Return a drop-in file with the server's certificates, for clients that offer RPC's ALPN or no ALPN.

    ``[server]`` has one certificate, registrations have all of them.
    """
    pairs = _credentials("server", sections.get("authenticate.server", {}), Import())  # settings_of has reported
    if not pairs:
        return ""
    credentials = ", ".join(f"{{ certificate = {_toml(one)}, key = {_toml(key)} }}" for one, key in pairs)
    lines = [f"# Imported from {source}"]
    for name, alpns in (("tlshd", ["sunrpc"]), ("tlshd-without-alpn", [])):
        lines += [
            "", f"[registration.{name}]", f"alpns = {_toml(alpns)}", "allow-kernel = true",
            f"credentials = [{credentials}]",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _credentials(role: str, section: Mapping[str, str], found: Import) -> list[tuple[str, str]]:
    """Return the certificate and key files of a section, the post-quantum ones last."""
    pairs = []
    for kind in ("x509", "x509.pq"):
        certificate, key = section.get(f"{kind}.certificate"), section.get(f"{kind}.private_key")
        if certificate is None and key is None:
            continue
        if certificate is None or key is None:
            found.left_out.append(f"{kind}.certificate or {kind}.private_key of the {role}: one requires the other")
        elif _URL.match(key):
            found.left_out.append(f"key {key} of the {role}: handshaked reads keys from files only")
        else:
            pairs.append((certificate, key))
    return pairs


def _toml(value: str | Sequence[str]) -> str:
    """Return `value` in TOML, which writes strings and lists of them as JSON does."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


# tls-session-tags(7)


def read_tags(directory: Path, found: Import) -> None:
    """Add rules for the tags that the YAML files in `directory` define, if it exists."""
    if not directory.is_dir():
        return
    filters: dict[str, Any] = {}
    tags: dict[str, Any] = {}
    for path in sorted(directory.iterdir()):
        if path.suffix in (".yml", ".yaml"):
            document = _yaml(path)
            filters |= _mapping(document, "filters", path)
            tags |= _mapping(document, "tags", path)
    for name, tag in tags.items():
        try:
            found.rules.append(_rule(str(name), tag, filters))
        except RefusedError as error:
            found.left_out.append(f"tag {name}: {error}")


def _yaml(path: Path) -> Any:
    try:
        import yaml  # not a dependency of the daemon
    except ImportError:
        raise RefusedError(f"{path}: reading it requires PyYAML: pip install pyyaml") from None
    try:
        return yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise RefusedError(f"{path}: {' '.join(str(error).split())}") from None


def _mapping(document: Any, key: str, path: Path) -> dict[str, Any]:
    content = document.get(key) or {} if isinstance(document, dict) else None
    if not isinstance(content, dict):
        raise RefusedError(f"{path}: {key} must be a mapping")
    return content


def _rule(name: str, tag: Any, filters: Mapping[str, Any]) -> str:
    """Return the rule that gives the tag `name`. RefusedError: it cannot be expressed."""
    wanted = tag.get("filter") if isinstance(tag, dict) else None
    if not isinstance(wanted, list) or not wanted:
        raise RefusedError("has no list of filters")
    words = ["tag", *(_condition(str(one), filters) for one in wanted), f"tag={name}"]
    rule = " ".join(map(shlex.quote, words))
    parse_rule(rule)
    return rule


def _condition(name: str, filters: Mapping[str, Any]) -> str:
    if name.startswith("not "):
        raise RefusedError(f"{name!r}: rules cannot negate a filter; write a deny rule instead")
    one = filters.get(name)
    if not isinstance(one, dict):
        raise RefusedError(f"filter {name!r} is not defined")
    kind, pattern = one.get("type"), one.get("pattern")
    if kind in _NAME_FIELDS and isinstance(pattern, str):
        return f"{_NAME_FIELDS[kind]}={pattern}"
    if kind == "x509.derived.fingerprint" and isinstance(pattern, str):
        if _FINGERPRINT.fullmatch(digits := pattern.replace(":", "")):
            return f"fingerprint={digits.lower()}"
        raise RefusedError(f"filter {name!r}: a fingerprint must be a whole SHA-256 digest")
    raise RefusedError(f"filter {name!r}: {kind} has no counterpart in rules")
