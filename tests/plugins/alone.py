"""Tests marked `alone` run while the other workers of xdist run no test: those that compare times.

Each test holds a lock on a file: an `alone` test an exclusive one, all others a shared one. A test takes the lock with
the turnstile closed, so that a test that waits for the exclusive lock is not overtaken. Waiting is outside the test's
timeout, and its own limit is longer than any test's. Workers that have no more tests hold no lock.
"""

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.run_name import RUN

PATIENCE = 3600.0
_PAUSE_SECONDS = 0.02
_TURNSTILE, _ROOM = range(2)  # bytes of the file


class Room:
    """The place where tests run: any number of them together, or one `alone`. ``path`` is that of its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w+b")

    @contextmanager
    def entered(self, name: str, *, alone: bool, patience: float = PATIENCE) -> Iterator[None]:
        """Be in the room for the block; TimeoutError after `patience` seconds that names the test `name`."""
        end = time.monotonic() + patience
        self._lock(_TURNSTILE, fcntl.LOCK_EX, name, end)
        try:
            self._lock(_ROOM, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, name, end)
        finally:
            self._unlock(_TURNSTILE)
        try:
            yield
        finally:
            self._unlock(_ROOM)

    def close(self) -> None:
        """Close the file, which ends all locks of this process."""
        self._file.close()

    def _lock(self, byte: int, kind: int, name: str, end: float) -> None:
        pause = threading.Event()
        while True:
            try:
                fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1, byte)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"{name} did not get its turn: another worker's test does not end") from None
                pause.wait(_PAUSE_SECONDS)
            else:
                return

    def _unlock(self, byte: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)


class Turns:
    """The hook of runs in which a test is `alone`; others do without."""

    def __init__(self, room: Room) -> None:
        self._room = room

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Enter the room before the test's timeout begins."""
        with self._room.entered(item.nodeid, alone=item.get_closest_marker("alone") is not None):
            return (yield)

    def pytest_unconfigure(self) -> None:
        """Close the room's file."""
        self._room.close()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the tests of this process take turns with those of others, if any is `alone`."""
    if hasattr(session.config, "workerinput") and any(item.get_closest_marker("alone") for item in session.items):
        session.config.pluginmanager.register(Turns(Room(_path())), "turns")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the file when all workers have ended."""
    if not hasattr(config, "workerinput"):
        _path().unlink(missing_ok=True)


def _path() -> Path:
    return Path(tempfile.gettempdir(), f"handshaked-{RUN}.{os.getuid()}.lock")
