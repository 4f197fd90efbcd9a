"""``grant``, ``grants`` and ``revoke``."""

from handshaked.testing.daemon import RunningDaemon
from tests.cli.commands import run


def test_grants_are_given_listed_and_revoked(daemon: RunningDaemon) -> None:
    assert run(daemon, "grant", "--user=bin", "--alpn=smb", "--server-name=*.example.com") == "grant 1\n"
    assert run(daemon, "grant", "--user=bin", "--alpn=smb", "--server-name=*.example.com") == "grant 1\n"  # that one
    assert "user bin" in run(daemon, "grants")
    assert len(run(daemon, "grants").splitlines()) == 2
    run(daemon, "revoke", "1")
    assert "no grant 1" in run(daemon, "revoke", "1", status=1)
    assert "unknown user" in run(daemon, "grant", "--user=no-such-user", "--alpn=smb", status=1)
    assert "either a user or a group" in run(daemon, "grant", "--alpn=smb", status=1)
