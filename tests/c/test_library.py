"""libhandshaked, compiled and run: on stand-ins for QUIC sockets, as libquic, as relay, and under sanitizers."""

import asyncio
import errno
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert, WireError
from handshaked.model import CipherSuite, Outcome, Role
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.quic_endpoint import KernelLikeEndpoint
from handshaked.wire.family import push_done
from handshaked.wire.netlink import push_ack, push_error
from tests.conftest import Issue
from tests.patience import BUILD_PATIENCE, PATIENCE, run_program
from tests.quic_sockets import (
    Echoed,
    StockServer,
    ask,
    in_thread,
    left_alone,
    socket_daemon,
)

HERE = Path(__file__).parent
LIBRARY = HERE.parents[1] / "netlink"
NAME = "quic.example.com"
Run = Callable[..., str]

pytestmark = pytest.mark.needs("cc", "make", "nm")


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
    run_program("make", "-C", LIBRARY, f"BUILD={directory}", *sanitize, timeout=BUILD_PATIENCE)
    flags = [f"-fsanitize={request.param}", "-fno-sanitize-recover=all"] if request.param else []
    strict = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"]
    for source in HERE.glob("*.c"):
        link = [f"-L{directory}", "-lhandshaked", f"-Wl,-rpath,{directory}"]
        command = ["cc", *strict, *flags, f"-I{LIBRARY}", "-o", directory / source.stem, source, *link]
        subprocess.run(command, check=True, timeout=PATIENCE)
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
    made = run_program(sys.executable, LIBRARY / "generate_header.py").stdout
    assert made.encode() == (LIBRARY / "handshaked_family.h").read_bytes()


@pytest.mark.needs("pkg-config")
def test_what_is_installed_is_found_by_pkg_config(tmp_path: Path) -> None:
    prefix = tmp_path / "usr"
    make = ["make", "-C", str(LIBRARY), f"BUILD={tmp_path / 'build'}"]
    run_program(*make, timeout=BUILD_PATIENCE)  # for another place, which must not count any more
    subprocess.run([*make, f"PREFIX={prefix}", "install"], check=True, capture_output=True, timeout=BUILD_PATIENCE)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libhandshaked"],
        env={**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")},
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    ).stdout.split()
    program = tmp_path / "relay"
    strict = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["cc", *strict, "-o", program, HERE / "relay.c", *flags], check=True, timeout=BUILD_PATIENCE)
    nobody = {"LD_LIBRARY_PATH": str(prefix / "lib"), "HANDSHAKED_SOCKET": str(tmp_path / "no")}
    assert run_program(program, NAME, "h3", env=nobody, check=False).returncode == 3  # no daemon there


def declared() -> set[str]:
    """The functions that the header declares."""
    header = re.sub(
        r"/\*.*?\*/|struct \w+ \{.*?^\};", "", (LIBRARY / "handshaked.h").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    return set(re.findall(r"\b(\w+)\(", header))


def test_every_function_has_a_page_and_nothing_else_is_exported(tmp_path: Path) -> None:
    make = ["make", "-C", LIBRARY, f"BUILD={tmp_path / 'build'}", "PREFIX=/usr", f"DESTDIR={tmp_path}", "install"]
    subprocess.run(make, check=True, capture_output=True, timeout=BUILD_PATIENCE)
    pages = {page.stem: page.read_text() for page in (tmp_path / "usr/share/man/man3").iterdir()}
    assert declared() | {"handshaked_relay", "handshaked_quic_client"} == set(pages)
    for name, text in pages.items():
        page = text if not text.startswith(".so ") else pages[text.split("/")[1].split(".")[0]]
        assert name == "handshaked_relay" or re.search(rf'"\w+ \*?{name}\(', page), name
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", "--format=posix", tmp_path / "usr/lib/libhandshaked.so"],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    ).stdout
    exported = {line.split()[0] for line in listed.splitlines() if line.split()[1] == "T"}
    # A name of libquic's has no version: a program is linked with that of another library.
    assert exported == {name if name.startswith("quic_") else f"{name}@@HANDSHAKED_0" for name in declared()}


@pytest.mark.needs("c++")
def test_the_header_is_good_for_cpp(tmp_path: Path) -> None:
    source = tmp_path / "program.cc"
    source.write_text("#include <handshaked.h>\nint main() { return quic_client_handshake(-1, 0, 0, 0) != -9; }\n")
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    subprocess.run(["c++", *strict, f"-I{LIBRARY}", source], check=True, timeout=PATIENCE)


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


def test_a_client_trusts_what_it_is_told_to(run: Run, issue: Issue, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "anchor").write_bytes(authority.certificate.public_bytes(Encoding.DER))
    with StockServer(issue(NAME)) as server:
        printed, echoed, _ = connected(run, server, f"trust={tmp_path / 'anchor'}")
    assert (printed.split()[0], echoed) == ("0", b"hello")


def test_a_client_resumes_with_a_ticket_of_its_own(run: Run, issue: Issue, tmp_path: Path) -> None:
    with StockServer(issue(NAME), tickets=True) as server:
        _, _, ticket = connected(run, server, "unauthenticated=1", "tickets=5")
        (tmp_path / "ticket").write_bytes(ticket)
        printed, echoed, _ = connected(run, server, "unauthenticated=1", f"ticket={tmp_path / 'ticket'}")
    assert ("resumed=1" in printed, echoed) == (True, b"hello")


# Daemons as they should not be.


@pytest.fixture
def answered(run: Run, tmp_path: Path) -> Run:
    """A program asks a daemon that answers with packets and goes, or hangs: what it prints."""

    def start(*packets: bytes, options: Sequence[str] = (), hangs: bool = False) -> str:
        path = tmp_path / os.urandom(4).hex()
        ours, theirs = socket.socketpair()
        with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()

            def answer() -> None:
                door, _ = listener.accept()
                with door:
                    door.recv(65536)
                    for packet in packets:
                        door.send(packet)
                    if not hangs:
                        door.shutdown(socket.SHUT_WR)
                    door.recv(65536)  # nothing, when the program goes

            answering = in_thread(answer)
            command = ("handshake", "server", ours.fileno(), "poll=1", *options)
            printed = run(*command, descriptor=ours.fileno(), HANDSHAKED_SOCKET=str(path))
            answering.result(PATIENCE)
            return printed

    return start


def frame(command: int, attributes: bytes, family: int = 32) -> bytes:
    return struct.pack("=IHHIIBBxx", 20 + len(attributes), family, 0, 1, 0, command, 1) + attributes


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


DONE, SECRET, SESSION_TICKET = 5, 3, 8
STATUS = 1


def ended_with(status: int) -> bytes:
    return frame(DONE, attribute(STATUS, struct.pack("=I", status)))


def refused_with(error: int) -> bytes:
    return struct.pack("=IHHIIiIHHII", 36, 2, 0, 1, 0, error, 16, 0, 0, 1, 0)


ENDS = {
    "no message": (b"?", errno.EPROTO),
    "cut short": (frame(DONE, b"")[:-1], errno.EPROTO),
    "junk in it": (frame(DONE, attribute(STATUS, bytes(4)) + b"\x01\0\0\0"), errno.EPROTO),
    "another family": (frame(DONE, attribute(STATUS, bytes(4)), family=999), errno.EPROTO),
    "too long": (bytes(128 * 1024 + 1), errno.EPROTO),
    "half a status": (frame(DONE, attribute(STATUS, bytes(2))), errno.EPROTO),
    "without a status": (frame(DONE, b""), errno.EIO),
    "minus one": (ended_with(0xFFFFFFFF), errno.EIO),
    "what has no opposite": (ended_with(0x80000000), errno.EIO),
    "what means go on": (ended_with(errno.EAGAIN), errno.EIO),
    "an error that has no opposite": (refused_with(-(2**31)), errno.EIO),
    "an error that is none": (refused_with(errno.EPERM), errno.EIO),
    "an error": (refused_with(-errno.EPERM), errno.EPERM),
    "an error cut short": (struct.pack("=I", 20) + refused_with(-errno.EPERM)[4:20], errno.EPROTO),
    "a secret too long": (frame(SECRET, attribute(4, bytes(49))), errno.EPROTO),
    "no secret": (frame(SECRET, b""), errno.EPROTO),
}


@pytest.mark.parametrize(("packet", "status"), ENDS.values(), ids=ENDS.keys())
def test_whatever_a_daemon_says_there_is_one_end(answered: Run, packet: bytes, status: int) -> None:
    assert answered(packet).startswith(f"{-status} ")


def test_a_daemon_that_goes_without_an_answer(answered: Run) -> None:
    assert answered().startswith(f"{-errno.ECONNRESET} ")


def test_the_text_of_an_error_is_told(answered: Run) -> None:
    packet = push_error(1, WireError("is not a socket", attribute="socket"))
    assert answered(packet).endswith("reason=socket: is not a socket")


def test_what_comes_behind_the_end_does_no_harm(answered: Run) -> None:
    """A message of another family was taken for a refusal, whose result nobody wanted any more."""
    late = [frame(SESSION_TICKET, b"", family=999), ended_with(0), frame(SESSION_TICKET, b""), b"?"]
    printed = answered(ended_with(errno.EACCES), *late, options=["late=1"])
    assert printed.startswith(f"{-errno.EACCES} ")


def test_every_field_of_a_result(answered: Run) -> None:
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
    assert answered(push_done(1, outcome)) == (
        f"0 alert=-1 alpn=smb registration=web name={NAME} suite=1301 resumed=1 early=1 "
        "tags=first,second, peer=4 reason="
    )


def test_a_daemon_that_takes_no_connections_is_a_timeout(run: Run, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, ExitStack() as waiting:
        listener.bind(str(tmp_path / "door"))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                one = waiting.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                one.setblocking(False)
                one.connect(str(tmp_path / "door"))
        printed = run("handshake", "server", ours.fileno(), f"socket={tmp_path / 'door'}", descriptor=ours.fileno())
    assert printed.startswith(f"{-errno.ETIMEDOUT} ")
    assert printed.endswith(f"cannot connect to the handshake daemon at {tmp_path / 'door'}")


@pytest.mark.parametrize("poll", [0, 1], ids=["blocking", "polled"])
def test_signals_do_not_interrupt(run: Run, authority: Authority, poll: int) -> None:
    printed, seen = served(run, "handshake", f"poll={poll}", "signals=1", root=authority.root)
    assert (printed.split()[0], seen.data) == ("0", b"hello")


def test_a_daemon_that_hangs_is_a_timeout(answered: Run) -> None:
    assert answered(push_ack(1), options=["timeout=1"], hangs=True).startswith(f"{-errno.ETIMEDOUT} ")


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
        "server: of the client h3",
        "client: of the server h3",
        "client: 0  resumed",
        "server: 0 web resumed",
        "secrets: 4 4 agree",
    ]


def runtime(library: str) -> str:
    """Where the compiler has `library`."""
    named = run_program("cc", f"-print-file-name={library}", timeout=BUILD_PATIENCE)
    return named.stdout.strip()


def test_a_program_linked_with_another_library_is_preloaded(
    built: Path, quic_daemon: RunningDaemon, authority: Authority, tmp_path: Path
) -> None:
    preloaded = [str(built / "libhandshaked.so")]
    if b"__asan_init" in (built / "libhandshaked.so").read_bytes():  # a sanitizer wants to be loaded before
        preloaded[:0] = [runtime("libasan.so"), runtime("libubsan.so")]
    stub = tmp_path / "stub.c"
    stub.write_text("int quic_server_handshake(void) { return 77; }\nint quic_client_handshake(void) { return 77; }\n")
    (tmp_path / "map").write_text("LIBQUIC_1 { global: *; };")  # which a program asks for by name
    versioned = f"-Wl,--version-script={tmp_path / 'map'}"
    run_program("cc", "-shared", "-fPIC", versioned, "-o", tmp_path / "libquic.so", stub, timeout=BUILD_PATIENCE)
    program = tmp_path / "program"
    link = [f"-L{tmp_path}", "-lquic", f"-Wl,-rpath,{tmp_path}"]
    subprocess.run(["cc", "-o", program, HERE / "libquic.c", *link], check=True, timeout=BUILD_PATIENCE)

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
