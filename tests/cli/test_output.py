"""The printed form of results: colours, names instead of numbers, times."""

import grp
import os
import pwd
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.cli.commands import NAME, run, run_on_terminal


@pytest.mark.parametrize("words", [("status",), ("list",), ("explain", "--server-name", NAME, "--alpn", "h3")])
def test_colours_are_printed_only_on_terminals(daemon: RunningDaemon, web: Authority, words: tuple[str, ...]) -> None:
    assert "\x1b[" not in run(daemon, *words)
    assert "\x1b[" in run_on_terminal(daemon, *words)
    assert "\x1b[3" not in run_on_terminal(daemon, *words, NO_COLOR="1")


def test_users_and_groups_are_shown_by_name(daemon: RunningDaemon, web: Authority, tmp_path: Path) -> None:
    nobody, nogroup = pwd.getpwnam("nobody"), grp.getgrgid(65534)
    issued = web.issue("a.example.com")
    run(
        daemon, "register", "a", f"--cert={issued.certificate}", f"--key={issued.key}", "--alpn=smb",
        "--allow-user=nobody", f"--allow-group={nogroup.gr_gid}", "--allow-user=12345", "--allow-kernel",
    )  # fmt: skip
    me = pwd.getpwuid(os.geteuid()).pw_name
    users = f"{me}, 12345, {nobody.pw_name}, group {nogroup.gr_name}, kernel"
    assert users in run(daemon, "list")
    assert f"may use it:     {users}" in run(daemon, "show", "a")
