"""Answers of the control socket: whoever asks gets one, be it that the right one is too long."""

from pathlib import Path

import pytest

from handshaked.errors import RefusedError
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue

LONG = "x" * 3000


@pytest.fixture
def web(shared_daemon: RunningDaemon, issue: Issue) -> RunningDaemon:
    issued = issue("www.example.com")
    shared_daemon.register(
        "web", (issued.certificate, issued.key), alpns=["h3"], server_names=["www.example.com"], replace=True
    )
    return shared_daemon


def test_many_problems_were_no_answer_at_all(public_directory: Path) -> None:
    with RunningDaemon(public_directory, workers=1) as daemon:
        daemon.drop_ins.mkdir(parents=True)
        words = "".join(f'[registration.n{n}]\nalpns = ["h3"]\ncertificate = "/{LONG}"\n' for n in range(150))
        (daemon.drop_ins / "many.toml").write_text(words)
        for shown in (daemon.ask("reload")["errors"], daemon.ask("status")["problems"]):
            assert shown[-1] == f"and {150 - len(shown) + 1} more, see the log"


def test_many_long_registrations_are_listed_page_by_page(public_directory: Path, issue: Issue) -> None:
    issued = issue("www.example.com")
    with RunningDaemon(public_directory, workers=1) as daemon:
        for number in range(16):
            names = [f"{'x' * 60}.{n}.{'y' * 60}.{number}.example.com" for n in range(100)]
            daemon.register(f"r{number:02}", (issued.certificate, issued.key), alpns=["h3"], server_names=names)
        found: list[str] = []
        more = True
        while more:
            answer = daemon.ask("list", **({"after": found[-1]} if found else {}))
            found += [one["name"] for one in answer["registrations"]]
            more = answer["more"]
        assert found == [f"r{number:02}" for number in range(16)]


def test_an_answer_that_is_too_long_is_an_error(web: RunningDaemon) -> None:
    """What is asked about comes back in it, several times."""
    with pytest.raises(RefusedError):
        web.ask("explain", server_name="a", alpns=["h3"] + [f"{n}{LONG}" for n in range(30)])
