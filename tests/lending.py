"""Daemons that tests use one after the other: starting one takes more time than most tests need."""

from collections.abc import Iterator
from contextlib import contextmanager

from handshaked.testing.daemon import RunningDaemon


@contextmanager
def lent(daemon: RunningDaemon) -> Iterator[RunningDaemon]:
    """Lend `daemon` to a test. Remove the registrations and grants that the test leaves, and check that it is healthy.

    Tests that stop it, change its files, count its handshakes or read its whole log need a daemon of their own.
    """
    before = daemon.pid, sorted(daemon.worker_pids())
    yield daemon
    while registrations := daemon.ask("list")["registrations"]:
        for registration in registrations:
            daemon.ask("unregister", name=registration["name"])
    for grant in daemon.ask("grants")["grants"]:
        daemon.ask("revoke", id=grant["id"])
    assert (daemon.pid, sorted(daemon.worker_pids())) == before, daemon.log.read_text()
