"""libhandshaked with daemons that are slow or hostile, and with callers that use it in unusual ways."""

import errno
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest

from tests.c.fake_daemon import answering, close, crypto, ended_with, error_with, secret, ticket
from tests.c.programs import Run
from tests.handshake_channel import eventually
from tests.hostile.honest import LIMIT, LONGEST
from tests.patience import PATIENCE, run_program
from tests.quic_socket_peers import in_thread

pytestmark = pytest.mark.needs("cc", "make", "nm")
NOBODY = 65534


@pytest.fixture
def run_api(run: Run, tmp_path: Path) -> Callable[..., str]:
    """Runs the program ``api`` in `mode` with a daemon that answers with `packets`; returns its output."""

    def start(mode: str, *packets: bytes, hangs: bool = True) -> str:
        path = tmp_path / os.urandom(4).hex()
        with answering(path, *packets, hangs=hangs):
            return run("api", mode, HANDSHAKED_SOCKET=str(path))

    return start


Api = Callable[..., str]


def test_lengths_near_the_largest_are_refused(run: Run, tmp_path: Path) -> None:
    """4 was added to the length before it was compared, and memcpy was called with the whole."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.listen()
        printed = run("api", "lengths", HANDSHAKED_SOCKET=str(tmp_path / "daemon.sock"))
    too_long, invalid = str(-errno.EMSGSIZE), str(-errno.EINVAL)
    assert printed.split() == [*([too_long] * 11), *([invalid] * 3)]


def test_callback_cannot_continue_its_own_handshake(run_api: Api) -> None:
    """The inner call returned the failure and the outer one success. Other functions work in a callback."""
    printed = run_api("reenter", crypto(), ended_with(errno.EACCES))
    assert printed.splitlines() == [
        f"callback: {-errno.EBUSY} 0 0 1 1",
        f"done: {errno.EACCES} 1",
        f"outer: {-errno.EACCES} {errno.EACCES}",
    ]


def test_callback_may_free_its_own_handshake(run_api: Api) -> None:
    printed = run_api("free", crypto() + crypto(), ended_with(0))
    assert printed.splitlines() == ["callback", f"outer: {-errno.ECANCELED} {errno.ECANCELED}"]
    printed = run_api("free-done", ended_with(errno.EACCES))
    assert printed.splitlines() == [f"done: {errno.EACCES}", f"outer: {-errno.EACCES} {errno.EACCES}"]


def test_deadline_is_checked_after_each_packet(run_api: Api) -> None:
    """It was checked only when there was no packet: a daemon that kept sending kept the caller."""
    acknowledged = error_with(0)
    assert run_api("late", acknowledged, acknowledged, ended_with(0)) == str(-errno.ETIMEDOUT)
    assert run_api("late", ended_with(0)) == "0"


def test_session_tickets_are_accepted_for_their_time_only(run_api: Api) -> None:
    """Packets after the end were handled for as long as they came, and there was no timeout to wait for."""
    assert run_api("late-tickets", ended_with(0), ticket(), ticket(), ticket()) == f"{-errno.EALREADY} -1 1"
    assert run_api("tickets", ended_with(0), ticket(), ticket(), hangs=False) == f"{-errno.EALREADY} -1 2"


def test_session_ticket_in_the_packet_of_done_is_delivered(run_api: Api) -> None:
    assert run_api("tickets", ended_with(0) + ticket(), ticket(), hangs=False) == f"{-errno.EALREADY} -1 2"


def test_result_has_the_quic_error_to_close_with(run_api: Api) -> None:
    assert run_api("close", ended_with(errno.EACCES, 0x0A)) == f"done: {-errno.EACCES} quic_error 10"
    assert run_api("close", ended_with(errno.EACCES)) == f"done: {-errno.EACCES} quic_error 0"


@pytest.mark.parametrize("joined", [True, False])
def test_violation_after_the_handshake_closes_the_connection(run_api: Api, joined: bool) -> None:
    """Nothing is delivered afterwards."""
    messages = [ended_with(0), ticket(), close(), ticket(), close()]
    printed = run_api("close", *([b"".join(messages)] if joined else messages))
    assert printed.splitlines() == [
        *([f"close: 10 why 1 tickets {-errno.EBUSY}"] if joined else []),
        "done: 0 quic_error 0",
        *([] if joined else [f"close: 10 why 1 tickets {-errno.EBUSY}"]),
        f"end: {-errno.EALREADY}",
    ]


def test_callback_of_a_violation_may_free_the_handshake(run_api: Api) -> None:
    printed = run_api("close-free", ended_with(0), close(), ticket())
    assert printed.splitlines() == [
        "done: 0 quic_error 0",
        f"close: 10 why 0 tickets {-errno.EBUSY}",
        f"end: {-errno.EALREADY}",
    ]


def test_slow_daemon_delays_a_call_only_once(run: Run, tmp_path: Path) -> None:
    """The second that a call may block was counted anew for each message of 32 KiB."""
    finished = Event()

    def read_slowly() -> None:
        daemon, _ = listener.accept()
        with daemon:
            while not finished.wait(0.3) and daemon.recv(65536):
                pass

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.listen()
        listener.settimeout(PATIENCE)
        reading = in_thread(read_slowly)
        try:
            printed = run("api", "slow", HANDSHAKED_SOCKET=str(tmp_path / "daemon.sock"))
        finally:
            finished.set()
        reading.result(PATIENCE)
    assert printed == str(-errno.ETIMEDOUT)


@pytest.mark.alone
def test_daemon_that_keeps_sending_does_not_delay_other_handshakes_of_a_program(run: Run, tmp_path: Path) -> None:
    """One call handled packets for as long as they came, until the handshake's timeout."""
    path = tmp_path / "hostile.sock"
    packet = crypto()
    ended = Event()

    def keep_sending() -> None:
        hostile, _ = listener.accept()
        with hostile, suppress(ConnectionError):  # the program closes at its end
            hostile.settimeout(PATIENCE)
            while not ended.is_set():
                hostile.send(packet)

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE)
        sending = in_thread(keep_sending)
        try:
            without, under = map(int, run("beside", path).split())
        finally:
            ended.set()
        sending.result(PATIENCE)
    assert under <= max(LIMIT * without, LONGEST * 1e6), f"p99 {without} microseconds, beside a hostile daemon {under}"


def test_secrets_are_cleared_after_their_callback(run_api: Api) -> None:
    """They stayed in the packet buffer until another packet overwrote them. The first 1: the test finds a secret."""
    printed = run_api("secrets", secret(value=os.urandom(32)) + crypto() + ended_with(0))
    assert printed.splitlines() == ["1 then 0", "0 at the end 0"]
    printed = run_api("secrets", secret(value=os.urandom(32)) + b"malformed")
    assert printed == f"{-errno.EPROTO} at the end 0"
    printed = run_api("secrets", secret(value=os.urandom(32)), hangs=False)
    assert printed == f"{-errno.ECONNRESET} at the end 0"


def test_structures_have_a_size_that_is_checked(run_api: Api, run: Run, tmp_path: Path) -> None:
    """Sizes: 0, that of the size, one byte too few, of version 0.1, right, 8 more that are zero or not, the largest."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.listen()
        printed = run("api", "sizes", HANDSHAKED_SOCKET=str(tmp_path / "daemon.sock"))
    small, large, waiting = -errno.EINVAL, -errno.E2BIG, f"({-errno.EAGAIN})"
    given = f"{small} {small} {small} 0 0 0 {large} {small}"
    returned = f"{small} {small} {small} " + 4 * f"0 {waiting} " + f"{small}"
    assert printed.splitlines() == [given, given, returned]


def files(tmp_path: Path) -> dict[str, Path]:
    """Return a FIFO without writer, a directory, and a device."""
    os.mkfifo(tmp_path / "fifo")
    return {"FIFO": tmp_path / "fifo", "directory": tmp_path, "device": Path("/dev/zero")}


@pytest.mark.parametrize("option", ["certificate", "key", "psk"])
def test_files_that_are_not_regular_are_refused(run: Run, tmp_path: Path, option: str) -> None:
    """Opening a FIFO blocked until somebody wrote to it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for path in files(tmp_path).values():
            printed = run("handshake", "server", ours.fileno(), f"{option}={path}", descriptor=ours.fileno())
            assert printed.startswith(f"{-errno.EINVAL} ")
            assert printed.endswith(f"reason=not a regular file: {path}")


def test_start_that_fails_has_a_reason(run: Run, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        printed = run("handshake", "server", ours.fileno(), "poll=1", f"socket={tmp_path}/no", descriptor=ours.fileno())
    assert printed.startswith(f"{-errno.ENOENT} alert=-1 ")
    assert printed.endswith(f"reason=cannot connect to the handshake daemon at {tmp_path}/no")


def test_failures_of_the_connection_have_a_reason(run_with_answers: Run) -> None:
    assert run_with_answers().endswith("reason=the handshake daemon closed the connection")
    assert run_with_answers(b"?").endswith("reason=malformed message from the handshake daemon")
    silent = run_with_answers(options=["timeout=1"], hangs=True)
    assert silent.endswith("reason=the handshake daemon does not answer")


def start_handshake(run: Run, *options: str, **variables: str) -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return run("handshake", "server", ours.fileno(), *options, descriptor=ours.fileno(), **variables)


def bound(path: Path | bytes) -> socket.socket:
    """Return a socket at `path`, not yet listening, whose accept() does not wait.

    A test in another process may have bound an abstract name, which is waited for.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.setblocking(False)

    def bind() -> bool:
        try:
            listener.bind(path if isinstance(path, bytes) else str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True

    assert eventually(bind)
    return listener


@pytest.mark.parametrize("options", [[], ["socket="]], ids=["variable", "option"])
def test_empty_socket_path_is_unset(run: Run, tmp_path: Path, options: list[str]) -> None:
    """It was taken for the abstract name of 107 zero bytes, which any user can bind."""
    with bound(bytes(108)) as attacker:
        attacker.listen()
        printed = start_handshake(run, *options, HANDSHAKED_SOCKET="", HANDSHAKED_DIRECTORY=str(tmp_path))
        with pytest.raises(BlockingIOError):
            attacker.accept()
    assert printed.startswith(f"{-errno.ENOENT} ")
    assert printed.endswith(f" {tmp_path}/handshake.sock")


def test_daemon_is_found_by_the_rules_of_the_python_clients(run: Run, tmp_path: Path) -> None:
    """The named socket, then the socket in the named directory. For an ordinary user's own daemon see below."""
    named, directory = str(tmp_path / "named.sock"), str(tmp_path)
    found = start_handshake(run, HANDSHAKED_SOCKET=named, HANDSHAKED_DIRECTORY=directory)
    assert found.endswith(f" {named}")
    found = start_handshake(run, HANDSHAKED_SOCKET="", HANDSHAKED_DIRECTORY=directory)
    assert found.endswith(f" {directory}/handshake.sock")
    too_long = start_handshake(run, HANDSHAKED_SOCKET="", HANDSHAKED_DIRECTORY="/" + 200 * "x")
    assert too_long.startswith(f"{-errno.ENAMETOOLONG} ")


@pytest.mark.needs("root")
def test_ordinary_user_finds_own_daemon(built: Path, public_directory: Path) -> None:
    """Below XDG_RUNTIME_DIR, else XDG_STATE_HOME, else HOME. Relative and empty ones are ignored."""
    for name in ("handshake", "libhandshaked.so.0"):
        shutil.copy(built / name, public_directory)
    state = public_directory / ".local/state"
    for base in (public_directory, state):
        (base / "handshaked").mkdir(parents=True)
        (base / "handshaked/handshake.sock").touch()  # so that connecting fails, and the reason names it

    def found(**variables: str) -> str:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            completed = run_program(
                public_directory / "handshake", "server", str(ours.fileno()), pass_fds=(ours.fileno(),), user=NOBODY,
                env={"LD_LIBRARY_PATH": str(public_directory), **variables},
            )  # fmt: skip
        return completed.stdout.strip().rpartition(" ")[2]

    home = str(public_directory)
    own, in_home = f"{home}/handshaked/handshake.sock", f"{state}/handshaked/handshake.sock"
    system = "/run/handshaked/handshake.sock"
    assert found(XDG_RUNTIME_DIR=home, HOME="/nonexistent") == own
    assert found(XDG_STATE_HOME=home, XDG_RUNTIME_DIR="", HOME="/nonexistent") == own
    assert found(HOME=home, XDG_RUNTIME_DIR="relative", HANDSHAKED_SOCKET="", HANDSHAKED_DIRECTORY="") == in_home
    assert found(XDG_RUNTIME_DIR="/nonexistent", HOME=home) == system
    assert found() == system


def listen_as(user: int, listener: socket.socket) -> None:
    """Listen as another user: these are the credentials that a client sees."""
    os.seteuid(user)
    try:
        listener.listen()
    finally:
        os.seteuid(0)


@pytest.mark.needs("root")
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o775])
def test_daemon_of_another_user_gets_nothing(run: Run, tmp_path: Path, mode: int) -> None:
    """The caller's descriptors were sent to whoever listened. In such a directory, not only its owner can."""
    tmp_path.chmod(mode)
    if not mode & 0o1000:
        os.chown(tmp_path, NOBODY, NOBODY)
    with bound(tmp_path / "daemon.sock") as attacker:
        listen_as(NOBODY, attacker)
        printed = start_handshake(run, HANDSHAKED_SOCKET=str(tmp_path / "daemon.sock"))
        accepted, _ = attacker.accept()
        with accepted:
            assert accepted.recv(65536) == b""
    assert printed.startswith(f"{-errno.EPERM} ")
    assert printed.endswith(f"neither root, this user nor the daemon's user listens at {tmp_path}/daemon.sock")


@pytest.mark.needs("root")
def test_daemon_that_owns_its_directory_is_accepted(run: Run, tmp_path: Path) -> None:
    """As the daemon's user owns /run/handshaked."""
    os.chown(tmp_path, NOBODY, NOBODY)
    with bound(tmp_path / "daemon.sock") as listener:
        listen_as(NOBODY, listener)
        printed = start_handshake(run, "timeout=1", HANDSHAKED_SOCKET=str(tmp_path / "daemon.sock"))
    assert printed.startswith(f"{-errno.ETIMEDOUT} ")
