"""Log output: structured fields to systemd's journal, or JSON lines or text to standard error."""

import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SOCKET = Path("/run/systemd/journal/socket")
FORMATS = ("auto", "text", "json", "journal")
_MAX_MESSAGE = 8192


class JournalHandler(logging.Handler):
    """Sends records to the journal in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    The fields returned by a record's ``fields``, a callable, become HANDSHAKED_<NAME>. A record that the journal does
    not accept goes to standard error.
    """

    def __init__(self, who: str, path: Path = SOCKET) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        self._who = who
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        message = {
            "MESSAGE": self.format(record)[:_MAX_MESSAGE],
            "PRIORITY": priority(record),
            "SYSLOG_IDENTIFIER": "handshaked",
            "HANDSHAKED_PROCESS": self._who,
            "CODE_FUNC": record.funcName,
            **{f"HANDSHAKED_{name.upper()}": value for name, value in _fields(record).items()},
        }
        try:
            self._sock.sendto(encode(message), os.fspath(self._path))
        except OSError:
            sys.stderr.write(f"<{priority(record)}>{self._who}: {message['MESSAGE']}\n")

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
        super().close()


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        """Return `record` as JSON."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "process": self._who,
            "message": super().format(record),
            **_fields(record),
        }
        return json.dumps(line, separators=(",", ":"))


class PriorityFormatter(logging.Formatter):
    """Adds syslog's priority as a prefix (sd-daemon(3)), for a journal that reads standard error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `record` as one line."""
        return f"<{priority(record)}>" + super().format(record).replace("\n", "\n ")


def handler_for(kind: str, who: str) -> logging.Handler:
    """Return the handler for the process `who` and the format `kind`, of FORMATS; ``auto`` prefers the journal."""
    under_systemd = bool(os.environ.get("JOURNAL_STREAM"))
    if kind == "journal" or (kind == "auto" and under_systemd and SOCKET.exists()):
        return JournalHandler(who)
    handler = logging.StreamHandler(sys.stderr)
    if kind == "json":
        handler.setFormatter(JsonFormatter(who))
    elif under_systemd:
        handler.setFormatter(PriorityFormatter(f"{who}: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {who}: %(message)s"))
    return handler


def encode(message: Mapping[str, object]) -> bytes:
    """Encode `message` in the journal's native protocol: a value with a line break follows its length."""
    out = bytearray()
    for name, value in message.items():
        text = str(value).encode(errors="backslashreplace")
        if b"\n" in text:
            out += name.encode() + b"\n" + len(text).to_bytes(8, "little") + text + b"\n"
        else:
            out += name.encode() + b"=" + text + b"\n"
    return bytes(out)


def priority(record: logging.LogRecord) -> int:
    """Return syslog's priority of `record`."""
    for level, number in ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if record.levelno >= level:
            return number
    return 7


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: Callable[[], dict[str, Any]] = getattr(record, "fields", dict)
    return fields()
