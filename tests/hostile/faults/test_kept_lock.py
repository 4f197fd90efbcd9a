"""SQLite fails to release a lock in a running daemon, does not notice, and waits for itself."""

import errno

import pytest

from handshaked.testing.daemon import RunningDaemon
from tests.hostile.faults.injector import Fault, Injector, Process
from tests.hostile.faults.scene import Scene, check

pytestmark = [pytest.mark.slow, pytest.mark.needs("root", "cc", "dbus-daemon")]

_UNNOTICED = 6
"""The first call in the scene of a new daemon whose failure SQLite does not notice."""


def test_daemon_replaces_a_connection_that_waits_for_itself(
    daemon: RunningDaemon, scene: Scene, injector: Injector
) -> None:
    """One statement waits for ten seconds, and all later ones would."""
    check(daemon, scene, injector, Fault(Process.DAEMON, "unlock", errno.ENOLCK, _UNNOTICED, _UNNOTICED))
    assert "locking protocol" in daemon.log.read_text(), "SQLite has noticed it: choose another call"
