"""What every process of the daemon does first: no core dumps, a log on standard error."""

import ctypes
import logging
import os
import resource
import sys

_PR_SET_DUMPABLE = 4
LEVELS = ("debug", "info", "warning", "error")


def forbid_core_dumps() -> None:
    """Keep keys and secrets out of core dumps and away from ptrace by the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")


class _JournalFormatter(logging.Formatter):
    """Puts syslog's priority in front, as sd-daemon(3) has it, when the journal reads standard error."""

    def format(self, record: logging.LogRecord) -> str:
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return f"<{priority}>" + super().format(record).replace("\n", "\n ")


def log_to_stderr(level: str, who: str) -> None:
    """Log from `level` up to standard error, as `who`."""
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_JournalFormatter(f"{who}: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {who}: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # What the format does not show need not be found out for each line.
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
