"""libhandshaked, compiled and run: on stand-ins for QUIC sockets, as libquic, as relay, and under sanitizers."""

import asyncio
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert
from handshaked.model import CipherSuite, Outcome, Role
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.quic_endpoint import KernelLikeEndpoint
from handshaked.wire.family import push_done
from tests.conftest import Issue
from tests.quic_sockets import PATIENCE, Echoed, StockServer, ask, in_thread, left_alone, socket_daemon

HERE = Path(__file__).parent
LIBRARY = HERE.parents[1] / "netlink"
NAME = "quic.example.com"
Run = Callable[..., str]

pytestmark = pytest.mark.skipif(shutil.which("cc") is None or shutil.which("make") is None, reason="needs cc and make")


@pytest.fixture(scope="module")
def quic_daemon(issue: Issue) -> Iterator[RunningDaemon]:
    with socket_daemon() as daemon:
        issued = issue(NAME)
        daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
        yield daemon


@pytest.fixture(scope="module", params=["", "address,undefined"], ids=["plain", "sanitized"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library and the programs of this directory, plain and under sanitizers."""
    directory = tmp_path_factory.mktemp("library")
    sanitize = [f"SANITIZE={request.param}"] if request.param else []
    subprocess.run(["make", "-C", LIBRARY, f"BUILD={directory}", *sanitize], check=True, capture_output=True)
    flags = [f"-fsanitize={request.param}", "-fno-sanitize-recover=all"] if request.param else []
    strict = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-g"]
    for source in HERE.glob("*.c"):
        link = [f"-L{directory}", "-lhandshaked", f"-Wl,-rpath,{directory}"]
        command = ["cc", *strict, *flags, f"-I{LIBRARY}", "-o", directory / source.stem, source, *link]
        subprocess.run(command, check=True)
    return directory


@pytest.fixture
def run(built: Path, quic_daemon: RunningDaemon) -> Run:
    """Runs a program with the daemon, and with a descriptor if one is given: what it prints. It has to be content."""

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


def served(run: Run, program: str, *arguments: object, **asked: object) -> tuple[str, Echoed]:
    """The program does the server's handshake with stock aioquic: what it prints, and what the client sees."""
    with KernelLikeEndpoint() as endpoint:
        port = endpoint.listen()
        client = in_thread(lambda: asyncio.run(ask(port, **asked)))
        connection = endpoint.next_connection()
        with connection.agent:
            descriptor = connection.agent.fileno()
            printed = run(program, "server", descriptor, *arguments, descriptor=descriptor)
        return printed, client.result(PATIENCE)


def test_the_header_is_made_of_the_specification() -> None:
    made = subprocess.run([sys.executable, LIBRARY / "generate_header.py"], check=True, capture_output=True).stdout
    assert made == (LIBRARY / "handshaked_family.h").read_bytes()


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="needs pkg-config")
def test_what_is_installed_is_found_by_pkg_config(tmp_path: Path) -> None:
    prefix = tmp_path / "usr"
    make = ["make", "-C", LIBRARY, f"BUILD={tmp_path / 'build'}", f"PREFIX={prefix}", "install"]
    subprocess.run(make, check=True, capture_output=True)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libhandshaked"],
        env={**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    program = tmp_path / "relay"
    strict = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *strict, "-o", program, HERE / "relay.c", *flags], check=True)
    nobody = {"LD_LIBRARY_PATH": str(prefix / "lib"), "HANDSHAKED_SOCKET": str(tmp_path / "no")}
    assert subprocess.run([program, NAME, "h3"], env=nobody, check=False).returncode == 3  # no daemon there
    pages = {page.name for page in (prefix / "share" / "man" / "man3").iterdir()}
    assert pages == {"handshaked_relay.3", "quic_client_handshake.3"}


@pytest.mark.parametrize("poll", [0, 1], ids=["blocking", "polled"])
def test_a_server_by_registration(run: Run, authority: Authority, poll: int) -> None:
    printed, seen = served(run, "handshake", f"poll={poll}", root=authority.root)
    assert printed.startswith("0 alert=-1 alpn=h3 registration=web name=quic.example.com ")
    assert seen.data == b"hello"


def test_a_refusal_comes_with_alert_and_reason(run: Run) -> None:
    printed, seen = served(run, "handshake", name="unknown.example.com")
    assert printed.startswith(f"{-errno.EACCES} alert={Alert.UNRECOGNIZED_NAME} ")
    assert "unknown.example.com" in printed
    assert seen.error_code == Alert.UNRECOGNIZED_NAME.quic_error


def connected(run: Run, server: StockServer, *arguments: str, ticket: bytes = b"") -> tuple[str, bytes, bytes]:
    """The program does the client's handshake: what it prints, what is echoed, what the socket has as ticket."""
    with KernelLikeEndpoint(session_ticket=ticket) as endpoint:
        asking = in_thread(lambda: endpoint.run(endpoint.exchange(server.port, b"hello")))
        connection = endpoint.next_connection()
        with connection.agent:
            descriptor = connection.agent.fileno()
            printed = run("handshake", "client", descriptor, f"name={NAME}", *arguments, descriptor=descriptor)
        return printed, asking.result(PATIENCE)[0], connection.socket.session_ticket


def test_a_client_and_the_ticket_that_it_waits_for(run: Run, issue: Issue) -> None:
    leaf = len(issue(NAME).leaf.public_bytes(Encoding.DER))
    with StockServer(issue(NAME), tickets=True) as server:
        printed, echoed, ticket = connected(run, server, "unauthenticated=1", "tickets=5")
        assert f"name={NAME} suite=1302 resumed=0 early=0 tags= peer={leaf} reason=" in printed
        assert (printed.split()[:3], echoed) == (["0", "alert=-1", "alpn=h3"], b"hello")
        printed, echoed, _ = connected(run, server, "unauthenticated=1", ticket=ticket)
        assert ("resumed=1" in printed, echoed) == (True, b"hello")


def test_a_client_verifies_its_server_unless_it_says_not_to(run: Run, issue: Issue) -> None:
    """By the system's trust store, which knows nothing of our authority."""
    with StockServer(issue(NAME)) as server:
        printed, echoed, _ = connected(run, server)
    assert printed.startswith(f"{-errno.EACCES} alert={Alert.UNKNOWN_CA} ")
    assert echoed == b""


def test_every_field_of_a_result(run: Run, tmp_path: Path) -> None:
    outcome = Outcome(
        status=0,
        reason="",
        alpn=b"smb",
        server_name=NAME,
        registration="web",
        cipher_suite=CipherSuite.AES_128_GCM_SHA256,
        resumed=True,
        early_data_accepted=True,
        peer_certificates=(b"leaf", b"above"),
        tags=("first", "second"),
    )
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.bind(str(tmp_path / "door"))
        daemon.listen()

        def answer() -> None:
            door, _ = daemon.accept()
            with door:
                door.recv(65536)
                door.send(push_done(1, outcome))

        answering = in_thread(answer)
        printed = run("handshake", "server", ours.fileno(), f"socket={tmp_path / 'door'}", descriptor=ours.fileno())
        answering.result(PATIENCE)
    assert printed == (
        f"0 alert=-1 alpn=smb registration=web name={NAME} suite=1301 resumed=1 early=1 "
        "tags=first,second, peer=4 reason="
    )


def test_a_registration_that_is_named_is_the_only_one(run: Run, authority: Authority) -> None:
    printed, seen = served(run, "handshake", "registration=web", root=authority.root)
    assert (printed.split()[3], seen.data) == ("registration=web", b"hello")
    printed, seen = served(run, "handshake", "registration=another", root=authority.root)
    assert printed.startswith(f"{-errno.EACCES} ")
    assert seen.data == b""


def test_a_timeout_is_kept(run: Run) -> None:
    with KernelLikeEndpoint() as endpoint:
        connection = left_alone(endpoint, Role.SERVER)
        with connection.agent:
            descriptor = connection.agent.fileno()
            printed = run("handshake", "server", descriptor, "timeout=300", descriptor=descriptor)
    assert printed.startswith(f"{-errno.ETIMEDOUT} ")
    assert "0.3 s" in printed


def test_a_socket_path_counts_more_than_the_environment(run: Run, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        printed = run("handshake", "server", ours.fileno(), f"socket={tmp_path / 'no'}", descriptor=ours.fileno())
    assert printed.startswith(f"{-errno.ENOENT} ")


def test_a_client_without_name_or_psk_is_refused(run: Run) -> None:
    """There would be no server to tell from any other."""
    with KernelLikeEndpoint() as endpoint:
        connection = left_alone(endpoint, Role.CLIENT)
        with connection.agent:
            descriptor = connection.agent.fileno()
            assert run("libquic", "client", descriptor, "", "", "h3", descriptor=descriptor) == str(-errno.EINVAL)
    assert not [call for call in connection.socket.calls if call.startswith("send")]


def test_a_program_for_libquic_serves_with_its_own_certificate(run: Run, issue: Issue, authority: Authority) -> None:
    issued = issue("own.example.com")
    printed, seen = served(
        run, "libquic", issued.key, issued.certificate, "h3", root=authority.root, name="own.example.com"
    )
    assert printed == "0"
    assert seen.data == b"hello"


def test_a_program_for_libquic_serves_by_registration(run: Run, authority: Authority) -> None:
    printed, seen = served(run, "libquic", "", "", "h3", root=authority.root)
    assert printed == "0"
    assert seen.data == b"hello"


def test_two_programs_for_libquic_with_a_psk(run: Run, tmp_path: Path) -> None:
    psk = tmp_path / "psk"
    psk.write_text(f"someone:{'5a' * 32}\n")
    with KernelLikeEndpoint() as server, KernelLikeEndpoint() as client:
        port = server.listen()
        asking = in_thread(lambda: client.run(client.exchange(port, b"hello")))
        ours = client.next_connection()
        first = in_thread(
            lambda: run("libquic", "client", ours.agent.fileno(), psk, "", "", descriptor=ours.agent.fileno())
        )
        theirs = server.next_connection()
        with ours.agent, theirs.agent:
            descriptor = theirs.agent.fileno()
            assert run("libquic", "server", descriptor, psk, "", "h3", descriptor=descriptor) == "0"
            assert first.result(PATIENCE) == "0"
        assert asking.result(PATIENCE) == (b"hello", None)


def test_what_cannot_be_is_an_errno(run: Run, tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        for role in ("client", "server"):
            printed = run("libquic", role, read, "", NAME if role == "client" else "", "h3", descriptor=read)
            assert printed == str(-errno.EINVAL)
        missing = run("libquic", "server", read, tmp_path / "key", tmp_path / "certificate", "h3", descriptor=read)
        assert missing == str(-errno.ENOENT)
        nobody = run("libquic", "server", read, "", "", "h3", descriptor=read, HANDSHAKED_SOCKET=str(tmp_path / "no"))
        assert nobody == str(-errno.ENOENT)
    finally:
        os.close(read)
        os.close(write)


def test_a_relay(run: Run) -> None:
    printed = run("relay", NAME, "h3")
    assert printed.splitlines() == [
        "server: of the client h3",
        "client: of the server h3",
        "client: 0 ",
        "server: 0 web",
        "secrets: 4 4 agree",
    ]


def runtime(library: str) -> str:
    """Where the compiler has `library`."""
    named = subprocess.run(["cc", f"-print-file-name={library}"], check=True, capture_output=True, text=True)
    return named.stdout.strip()


def test_a_program_linked_with_another_library_is_preloaded(
    built: Path, quic_daemon: RunningDaemon, authority: Authority, tmp_path: Path
) -> None:
    preloaded = [str(built / "libhandshaked.so")]
    if b"__asan_init" in (built / "libhandshaked.so").read_bytes():  # a sanitizer wants to be loaded before
        preloaded[:0] = [runtime("libasan.so"), runtime("libubsan.so")]
    stub = tmp_path / "stub.c"
    stub.write_text("int quic_server_handshake(void) { return 77; }\nint quic_client_handshake(void) { return 77; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libquic.so", stub], check=True)
    program = tmp_path / "program"
    link = [f"-L{tmp_path}", "-lquic", f"-Wl,-rpath,{tmp_path}"]
    subprocess.run(["cc", "-o", program, HERE / "libquic.c", *link], check=True)

    def start(name: str, *arguments: object, descriptor: int) -> str:
        completed = subprocess.run(
            [program, *map(str, arguments)],
            pass_fds=(descriptor,),
            env={
                "HANDSHAKED_SOCKET": str(quic_daemon.handshake_socket),
                "LD_PRELOAD": ":".join(preloaded),
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        return completed.stdout.strip()

    printed, seen = served(start, "libquic", "", "", "h3", root=authority.root)
    assert printed == "0"
    assert seen.data == b"hello"
