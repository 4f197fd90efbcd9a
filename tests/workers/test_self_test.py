"""The self-test: a handshake of the daemon with itself, or the cause of its failure."""

import asyncio
import os
import re
from pathlib import Path

from handshaked.testing.daemon import RunningDaemon
from handshaked.workers.self_test import SelfTest


def test_daemon_runs_its_self_test(shared_daemon: RunningDaemon) -> None:
    assert shared_daemon.ask("status")["self_test"] == "ok"


def test_missing_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / "handshake.sock"
    failure = asyncio.run(SelfTest.make(os.geteuid()).run(path))
    assert failure == f"{path}: No such file or directory"


def test_refusal_is_reported_with_its_role(shared_daemon: RunningDaemon) -> None:
    """The daemon does not have the certificate of another daemon's self-test."""
    failure = asyncio.run(SelfTest.make(os.geteuid()).run(shared_daemon.handshake_socket))
    assert failure is not None
    assert re.match(r"(client|server): .+", failure)


def test_key_of_the_self_test_is_not_shown() -> None:
    assert "PRIVATE" not in repr(SelfTest.make(os.geteuid()))
