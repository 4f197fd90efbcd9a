"""The library, built with and without sanitizers, and a daemon for it."""

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from handshaked.testing.daemon import RunningDaemon
from tests.c.fake_daemon import answering
from tests.c.programs import LIBRARY, NAME, PROGRAMS, Run
from tests.conftest import Issue
from tests.patience import BUILD_PATIENCE, PATIENCE, run_program
from tests.quic_socket_peers import socket_daemon


@pytest.fixture(scope="session")
def quic_daemon(issue: Issue) -> Iterator[RunningDaemon]:
    """A daemon that accepts stand-ins for QUIC sockets, with the registration "web"."""
    with socket_daemon() as daemon:
        issued = issue(NAME)
        daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
        yield daemon


@pytest.fixture(scope="session", params=["", "address,undefined"], ids=["plain", "sanitized"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the library and the programs of tests/c, built plain and with sanitizers."""
    directory = tmp_path_factory.mktemp("library")
    sanitize = [f"SANITIZE={request.param}"] if request.param else []
    run_program("make", "-C", LIBRARY, f"BUILD={directory}", *sanitize, timeout=BUILD_PATIENCE)
    flags = [f"-fsanitize={request.param}", "-fno-sanitize-recover=all"] if request.param else []
    strict = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"]
    for source in PROGRAMS.glob("*.c"):
        link = [f"-L{directory}", "-lhandshaked", f"-Wl,-rpath,{directory}"]
        command = ["cc", *strict, *flags, f"-I{LIBRARY}", "-o", directory / source.stem, source, *link]
        subprocess.run(command, check=True, timeout=PATIENCE)
    return directory


@pytest.fixture
def run(built: Path, quic_daemon: RunningDaemon) -> Run:
    """Runs a program with the daemon, passing it `descriptor`; returns its output. The program must succeed."""

    def start(program: str, *arguments: object, descriptor: int | None = None, **variables: str) -> str:
        completed = subprocess.run(
            [built / program, *map(str, arguments)],
            pass_fds=() if descriptor is None else (descriptor,),
            env={"HANDSHAKED_SOCKET": str(quic_daemon.handshake_socket), **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout.strip()

    return start


@pytest.fixture
def run_with_answers(run: Run, tmp_path: Path) -> Run:
    """Runs a program with a daemon that answers with packets and then closes or hangs; returns its output."""

    def start(*packets: bytes, options: Sequence[str] = (), hangs: bool = False) -> str:
        path = tmp_path / os.urandom(4).hex()
        ours, theirs = socket.socketpair()
        with ours, theirs, answering(path, *packets, hangs=hangs):
            command = ("handshake", "server", ours.fileno(), "poll=1", *options)
            return run(*command, descriptor=ours.fileno(), HANDSHAKED_SOCKET=str(path))

    return start
