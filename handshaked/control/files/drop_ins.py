"""Drop-in files: registrations in TOML files, for configuration management. Commands cannot change them.

    [registration.web]
    server-names = ["www.example.com"]
    alpns = ["h3"]
    certificate = "/etc/letsencrypt/live/www.example.com/fullchain.pem"
    key = "/etc/letsencrypt/live/www.example.com/privkey.pem"

Every error names the file and the line, and the keys are those of the table of settings (``registry.settings``).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handshaked.configuration.toml_lines import KeyLines, TomlError, decoded, parsed_document
from handshaked.control.files.readers import contained
from handshaked.control.requests.arguments import ArgumentError, Arguments
from handshaked.control.requests.loading import CREDENTIALS_PREFIX, paths_of, reread
from handshaked.control.requests.loading_sandbox import load_for
from handshaked.control.requests.permissions import uid_of
from handshaked.control.requests.policies import load_trust, reread_trust
from handshaked.control.requests.registration import Loaded, pull_request
from handshaked.errors import RefusedError, file_problem
from handshaked.registry.files import open_regular, read_file
from handshaked.registry.mode_advice import advise, shown_mode
from handshaked.registry.settings import CREDENTIAL
from handshaked.registry.store import NewRegistration

TABLE = "registration"
_CREDENTIAL = tuple(file.name for file in CREDENTIAL)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error at `where` (``path:line``, or a path). The registration `name`, if any, stays as it is."""

    where: str
    reason: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(slots=True)
class DropIns:
    """The registrations that the files define, by name and each with its place, and the problems found.

    ``unread`` are files that could not be read: their registrations stay. If not ``complete``, the directory could not
    be read, and all registrations stay.
    """

    wanted: dict[str, tuple[NewRegistration, str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    complete: bool = True


class _LineError(RefusedError):
    """An error at ``line`` of the file."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def read_drop_ins(directory: Path) -> DropIns:
    """Read all ``*.toml`` files in `directory`, in the order of their names; nothing if there is no such directory."""
    found = DropIns()
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
    except FileNotFoundError:
        return found
    except OSError as error:
        found.complete = False
        found.problems.append(Problem(str(directory), error.strerror or str(error)))
        return found
    for path in paths:
        try:
            with contained(str(path)):
                _read_file(path, found)
        except OSError as error:
            found.unread.add(str(path))
            found.problems.append(Problem(str(path), error.strerror or str(error)))
        except _LineError as error:
            found.unread.add(str(path))
            found.problems.append(Problem(f"{path}:{error.line}", str(error)))
        except RefusedError as error:  # not a regular file, or too large; the text begins with its path
            found.unread.add(str(path))
            found.problems.append(Problem(str(path), str(error).removeprefix(f"{path}: ")))
    return found


def _read_file(path: Path, found: DropIns) -> None:
    text, owner = _content(path)
    key_lines = KeyLines(text)
    try:
        document = parsed_document(text)
    except TomlError as error:
        raise _LineError(error.line, str(error)) from None
    for key, tables in document.items():
        if key != TABLE or not isinstance(tables, dict):
            raise _LineError(key_lines.line((key,)), f"{key!r}: only tables [{TABLE}.NAME] are allowed here")
    for name, table in document.get(TABLE, {}).items():
        where = f"{path}:{key_lines.line((TABLE, name))}"
        try:
            with contained(where):
                new = _registration(name, table, path, owner)
        except (OSError, RefusedError) as error:
            key, reason = _explained(error, table)
            found.problems.append(Problem(f"{path}:{key_lines.line((TABLE, name, key))}", reason, name))
        else:
            if name in found.wanted:
                found.problems.append(
                    Problem(where, f"registration {name!r} is already defined at {found.wanted[name][1]}")
                )
            else:
                found.wanted[name] = (new, where)


def _explained(error: OSError | RefusedError, table: Any) -> tuple[str, str]:
    """Return the key of `table` that `error` is about, and the reason with the names that keys have in these files."""
    if isinstance(error, ArgumentError):
        key = error.name.replace("_", "-")
        if key == "credentials":  # the first credential may be written without the list
            key = next((one for one in _CREDENTIAL if one in table and str(error).startswith(f"{one} ")), key)
        return key, str(error).replace(error.name, key)
    reason = file_problem(error)
    values = table.items() if isinstance(table, dict) else ()
    named = (key for key, value in values if isinstance(value, str) and reason.startswith(f"{value}: "))
    return next(named, "credentials"), reason


def _content(path: Path) -> tuple[str, int]:
    """Return the file's text and owner; refuse files not owned by root or the daemon's user."""

    def check(status: os.stat_result) -> None:
        if status.st_uid not in (0, os.geteuid()):
            advice = advise("chown root", str(path), str(path))
            raise _LineError(1, f"owned by uid {status.st_uid}, must be owned by root; {advice}")
        if status.st_mode & 0o022:
            advice = advise("chmod go-w", str(path), str(path))
            raise _LineError(1, f"mode {shown_mode(status)} lets others write it; {advice}")

    descriptor = open_regular(str(path), check)
    try:
        owner = os.fstat(descriptor).st_uid
        content = read_file(descriptor, str(path), secret=False)
    finally:
        os.close(descriptor)
    try:
        return decoded(content), owner
    except TomlError as error:
        raise _LineError(error.line, str(error)) from None


def _registration(name: str, table: Any, path: Path, owner: int) -> NewRegistration:
    if not isinstance(table, dict):
        raise RefusedError(f"must be a table: write [{TABLE}.{name}]")
    message = {key.replace("-", "_"): value for key, value in table.items()}
    if "name" in message:
        raise ArgumentError("name", "unknown key 'name': the name of the table is the registration's name")
    single = {key: message.pop(key) for key in _CREDENTIAL if key in message}
    if single:
        message["credentials"] = [single, *message.get("credentials", [])]
    arguments = Arguments({"name": name, **message})
    user = arguments.optional_text("owner")
    if user is not None:
        try:
            owner = uid_of(user)
        except RefusedError as error:
            raise ArgumentError("owner", str(error)) from None
    request = pull_request(arguments)
    for named in (*(one for source in request.sources for one in paths_of(source)), *request.trust.paths):
        if not named.startswith(("/", CREDENTIALS_PREFIX)):
            raise RefusedError(f"{named}: must be an absolute path")
    credentials = tuple(load_for(owner, source, reread(source, owner)) for source in request.sources)
    trust = load_trust(request.trust, reread_trust(request.trust, owner))
    return request.with_loaded(Loaded(credentials, trust, request.resolved_access()), owner, str(path))
