"""``grant``, ``grants`` and ``revoke``."""

from handshaked.testing.daemon import RunningDaemon
from tests.cli.commands import run


def test_grants_are_given_listed_and_revoked(own_daemon: RunningDaemon) -> None:
    for _ in range(2):  # the second one changes nothing
        assert run(own_daemon, "grant", "--user=bin", "--alpn=smb", "--server-name=*.example.com") == "grant 1\n"
    assert "user bin" in run(own_daemon, "grants")
    assert len(run(own_daemon, "grants").splitlines()) == 2
    run(own_daemon, "revoke", "1")
    assert "no grant 1" in run(own_daemon, "revoke", "1", status=1)
    assert "unknown user" in run(own_daemon, "grant", "--user=no-such-user", "--alpn=smb", status=1)
    assert "either a user or a group" in run(own_daemon, "grant", "--alpn=smb", status=1)
