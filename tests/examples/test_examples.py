"""The programs in examples/, run as the documentation says, against a real daemon."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux
from handshaked.testing.fake_quic_endpoint import FakeQuicEndpoint
from handshaked.testing.ports import free_port
from handshaked.testing.processes import ending
from tests.conftest import Issue
from tests.patience import BUILD_PATIENCE, PATIENCE, run_program
from tests.plugins.needs import need
from tests.quic_socket_peers import StockServer, ask, in_thread, socket_daemon

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = CHECKOUT / "examples"
NAME, ALPN = "examples.example.com", "echo"
SERVED = f"ALPN {ALPN}, registration example\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """A daemon that also accepts stand-ins for QUIC sockets."""
    with socket_daemon() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def registered(daemon: RunningDaemon, issue: Issue) -> str:
    """The registration that the examples use, made by the example for that; what it printed."""
    issued = issue(NAME)
    return finished("register.py", daemon, "example", NAME, ALPN, issued.certificate, issued.key)


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]


def environment(daemon: RunningDaemon) -> Mapping[str, str]:
    return {**os.environ, "HANDSHAKED_DIRECTORY": str(daemon.runtime_directory)}


def finished(name: str, daemon: RunningDaemon, *arguments: object, stdin: int = subprocess.DEVNULL) -> str:
    """Run an example to its end, which must be a success, and return its output."""
    completed = subprocess.run(
        command(name, *arguments),
        stdin=stdin,
        env=environment(daemon),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    return completed.stdout


@contextmanager
def running(name: str, *arguments: object, env: Mapping[str, str]) -> Iterator[None]:
    """Run an example server until it has served; it must end cleanly on SIGTERM."""
    with ending(
        subprocess.Popen(command(name, *arguments), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("listening ")
            yield
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, "")


def test_registering_from_python(registered: str, daemon: RunningDaemon) -> None:
    assert registered == "registered example\n"
    assert daemon.ask("show", name="example")["registration"]["server_names"] == [NAME]


def test_refused_registration_says_why(daemon: RunningDaemon, issue: Issue) -> None:
    issued = issue(NAME)
    completed = subprocess.run(
        command("register.py", "example", NAME, ALPN, issued.key, issued.key),
        env=environment(daemon),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert completed.returncode == 1
    assert completed.stderr.startswith("not registered: ")


@pytest.mark.parametrize("name", ["stack_asyncio.py", "stack_blocking.py"])
def test_userspace_stack_completes_a_handshake(name: str, daemon: RunningDaemon, authority: Authority) -> None:
    printed = finished(name, daemon, NAME, ALPN, authority.root)
    assert printed == f"client: ALPN {ALPN}, registration None\nserver: {SERVED}"


def test_aioquic_client_talks_to_aioquic_server(daemon: RunningDaemon, authority: Authority) -> None:
    port = free_port()
    with running("aioquic_server.py", port, ALPN, env=environment(daemon)):
        printed = finished("aioquic_client.py", daemon, port, NAME, ALPN, authority.root, "hello")
    assert printed == "1 certificate(s) verified\nhello\n"


def test_server_on_shared_port(daemon: RunningDaemon, authority: Authority, public_directory: Path) -> None:
    with RunningDemux(public_directory, daemon) as demux:
        variables = {**environment(daemon), "HANDSHAKED_DEMUX_DIRECTORY": str(demux.socket.parent)}
        with running("shared_port_server.py", "example", env=variables):
            printed = finished("aioquic_client.py", daemon, demux.port, NAME, ALPN, authority.root, "hello")
    assert printed.endswith("hello\n")


def served(start: Callable[[int], str], **asked: object) -> str:
    """Have `start` serve a client of stock aioquic on an emulated accepted QUIC socket; return its output."""
    with FakeQuicEndpoint(alpns=(ALPN,)) as endpoint:
        port = endpoint.listen()
        client = in_thread(lambda: asyncio.run(ask(port, name=NAME, alpn=ALPN, **asked)))
        connection = endpoint.next_connection()
        with connection.agent:
            printed = start(connection.agent.fileno())
        assert client.result(PATIENCE).data == b"hello"
        return printed


def test_server_on_quic_socket(daemon: RunningDaemon, authority: Authority) -> None:
    printed = served(lambda sock: finished("quic_socket.py", daemon, "server", stdin=sock), root=authority.root)
    assert printed == SERVED


def test_server_with_own_files_on_quic_socket(daemon: RunningDaemon, authority: Authority, issue: Issue) -> None:
    issued = issue(NAME)
    arguments = ("server", issued.certificate, issued.key)
    printed = served(lambda sock: finished("quic_socket.py", daemon, *arguments, stdin=sock), root=authority.root)
    assert printed == f"ALPN {ALPN}, registration None\n"


def test_client_on_quic_socket(daemon: RunningDaemon, authority: Authority, issue: Issue) -> None:
    arguments = ("client", NAME, ALPN, authority.root)
    with StockServer(issue(NAME), ALPN) as server, FakeQuicEndpoint(alpns=(ALPN,)) as endpoint:
        asking = in_thread(lambda: endpoint.run(endpoint.exchange(server.port, b"hello")))
        connection = endpoint.next_connection()
        with connection.agent:
            printed = finished("quic_socket.py", daemon, *arguments, stdin=connection.agent.fileno())
        assert asking.result(PATIENCE) == (b"hello", None)
    assert printed == f"ALPN {ALPN}, registration None\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of libhandshaked, built."""
    need("cc", "make")
    directory = tmp_path_factory.mktemp("library")
    run_program("make", "-C", CHECKOUT / "netlink", f"BUILD={directory}", timeout=BUILD_PATIENCE)
    return directory


def compiled(name: str, library: Path, directory: Path) -> Path:
    """Compile the example `name` into `directory` and return the program."""
    program = directory / Path(name).stem
    strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{CHECKOUT / 'netlink'}"]
    link = [f"-L{library}", "-lhandshaked", f"-Wl,-rpath,{library}"]
    run_program("cc", *strict, "-o", program, EXAMPLES / name, *link, timeout=BUILD_PATIENCE)
    return program


def test_c_server_on_quic_socket(daemon: RunningDaemon, authority: Authority, library: Path, tmp_path: Path) -> None:
    program = compiled("quic_server.c", library, tmp_path)
    environment = {"HANDSHAKED_SOCKET": str(daemon.handshake_socket)}
    printed = served(lambda sock: run_program(program, stdin=sock, env=environment).stdout, root=authority.root)
    assert printed == SERVED


def test_userspace_stack_in_c_completes_a_handshake(daemon: RunningDaemon, library: Path, tmp_path: Path) -> None:
    program = compiled("stack.c", library, tmp_path)
    printed = run_program(program, NAME, ALPN, env={"HANDSHAKED_SOCKET": str(daemon.handshake_socket)}).stdout
    assert sorted(printed.splitlines()) == [f"client: ALPN {ALPN}", f"server: {SERVED.strip()}"]


def test_every_example_is_listed_and_run() -> None:
    """A new example needs a row in the list and a test here."""
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".c")}
    listed = set(re.findall(r"`(\w+\.(?:py|c))`", (EXAMPLES / "README.md").read_text()))
    tested = set(re.findall(r'"(\w+\.(?:py|c))"', Path(__file__).read_text()))
    assert names == listed == tested
