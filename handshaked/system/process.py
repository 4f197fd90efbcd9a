"""The first steps of every process of the daemon: disable core dumps, start logging."""

import ctypes
import logging
import os
import resource
import stat
import sys
from typing import TextIO

from handshaked.system.background_log import BackgroundHandler, UnlockedStream
from handshaked.system.journal import JournalHandler, handler_for

_PR_SET_DUMPABLE = 4
DEFAULT_LEVEL = "info"
LEVELS = ("debug", "info", "warning", "error")


def forbid_core_dumps() -> None:
    """Keep keys and secrets out of core dumps and away from ptrace by the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")


def descriptor_limit() -> int:
    """Return how many descriptors this process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_descriptor_limit() -> int:
    """Raise the limit of open file descriptors to the hard limit. Return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def start_logging(level: str, who: str, form: str = "auto") -> None:
    """Log messages of at least `level` for the process `who`, in the format `form` (``journal.FORMATS``)."""
    handler = handler_for(form, who)
    if isinstance(handler, JournalHandler) or not _is_regular_file(sys.stderr):  # a file has no reader to wait for
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(UnlockedStream(sys.stderr.fileno()))
        handler = BackgroundHandler(handler)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # No format shows these, so do not collect them for each line.
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False


def _is_regular_file(stream: TextIO) -> bool:
    return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
