"""Where the log goes: structured fields to systemd's journal, else JSON lines or text on standard error."""

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

    What a record's ``fields``, a callable, gives becomes HANDSHAKED_<NAME>. What the journal does not take goes to
    standard error.
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
    """One JSON object a line."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        """`record` as JSON."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "process": self._who,
            "message": super().format(record),
            **_fields(record),
        }
        return json.dumps(line, separators=(",", ":"))


class PriorityFormatter(logging.Formatter):
    """Puts syslog's priority in front, as sd-daemon(3) has it, when the journal reads standard error."""

    def format(self, record: logging.LogRecord) -> str:
        """`record` as one line."""
        return f"<{priority(record)}>" + super().format(record).replace("\n", "\n ")


def handler_for(kind: str, who: str) -> logging.Handler:
    """What logs as `who` in the form `kind`, one of FORMATS; ``auto`` is the journal's if it listens."""
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
    """`message` in the journal's native protocol: a value with a line break is written behind its length."""
    out = bytearray()
    for name, value in message.items():
        text = str(value).encode(errors="backslashreplace")
        if b"\n" in text:
            out += name.encode() + b"\n" + len(text).to_bytes(8, "little") + text + b"\n"
        else:
            out += name.encode() + b"=" + text + b"\n"
    return bytes(out)


def priority(record: logging.LogRecord) -> int:
    """Syslog's priority of `record`."""
    for level, number in ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if record.levelno >= level:
            return number
    return 7


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: Callable[[], dict[str, Any]] = getattr(record, "fields", dict)
    return fields()
