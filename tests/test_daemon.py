"""The daemon as a process: restarts, signals, users, and its log."""

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from handshaked.control.client import ControlClient
from handshaked.errors import RefusedError, Status
from handshaked.system import directories
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.family import push_cancel, push_crypto, push_start
from handshaked.wire.messages import Acknowledged, Done
from tests.conftest import Issue
from tests.handshake_channel import (
    HandshakeChannel,
    client_hello,
    client_start,
    eventually,
    secrets_of,
    server_start,
    shake_hands,
)
from tests.plugins.needs import need, public_python
from tests.signal_storm import signal_storm

NAME = "a.example.com"
OK = (Status.OK, Status.OK)


def register(daemon: RunningDaemon, issued: Issued, name: str = "web", server_name: str = NAME) -> None:
    daemon.register(name, (issued.certificate, issued.key), alpns=["h3"], server_names=[server_name])


def succeeds(channel: HandshakeChannel, first: int = 100) -> bool:
    client, server = shake_hands(channel, first, first + 1, client_start(NAME, b"h3"), server_start())
    return (client.status, server.status) == OK


def test_registrations_survive_a_crash(public_directory: Path, issue: Issue) -> None:
    daemon = RunningDaemon(public_directory)
    with daemon:
        register(daemon, issue(NAME))
        daemon.stop(signal.SIGKILL)
    with daemon, HandshakeChannel(daemon.handshake_socket) as channel:
        assert succeeds(channel)


# Signals.


def test_sigterm_lets_handshakes_finish(daemon: RunningDaemon, issue: Issue) -> None:
    register(daemon, issue(NAME))
    with HandshakeChannel(daemon.handshake_socket) as channel:
        hello = client_hello(channel, 1, client_start(NAME, b"h3"))
        channel.send(push_start(2, server_start(), ack=True), push_crypto(2, hello, ack=True))
        flight = [*channel.until(2, Acknowledged), *channel.until(2, Acknowledged)]
        os.kill(daemon.pid, signal.SIGTERM)
        assert eventually(lambda: "stopping" in daemon.log.read_text())
        for message in flight:
            if hasattr(message, "data"):
                channel.send(push_crypto(1, message))
        client = channel.until(1, Done)
        assert client[-1].outcome.status == Status.OK
        channel.send(*(push_crypto(2, message) for message in client if hasattr(message, "data")))
        assert channel.outcome(2).status == Status.OK
        assert channel.closed()
        assert daemon.stop() == 0


def test_more_signals_do_not_kill_a_daemon_that_ends(daemon: RunningDaemon) -> None:
    with signal_storm(daemon.pid, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_daemon_stops_immediately(daemon: RunningDaemon, number: int) -> None:
    with HandshakeChannel(daemon.handshake_socket) as channel:
        assert daemon.stop(number) == 0
        assert channel.closed()


@pytest.mark.slow
def test_sigterm_does_not_wait_forever(daemon: RunningDaemon) -> None:
    with HandshakeChannel(daemon.handshake_socket) as channel:
        channel.send(push_start(1, server_start(timeout=60), ack=True))
        channel.until(1, Acknowledged)
        os.kill(daemon.pid, signal.SIGTERM)
        outcome = channel.outcome(1)
        assert (outcome.status, outcome.reason) == (Status.SHUTTING_DOWN, "the daemon is shutting down")
    assert daemon.stop() == 0


def certificate_served(daemon: RunningDaemon, name: str = NAME) -> bytes:
    """Return the digest of the leaf that a client of `name` receives."""
    with HandshakeChannel(daemon.handshake_socket) as channel:
        client, _ = shake_hands(channel, 1, 2, client_start(name, b"h3"), server_start())
        digest = hashes.Hash(hashes.SHA256())
        digest.update(client.peer_certificates[0])
        return digest.finalize()


def test_sighup_loads_renewed_files(daemon: RunningDaemon, authority: Authority) -> None:
    first = authority.issue(NAME, file_name="renewed")
    register(daemon, first)
    with HandshakeChannel(daemon.handshake_socket) as channel:
        # A handshake that began before the reload keeps its credential.
        channel.send(push_start(2, server_start(), ack=True))
        channel.until(2, Acknowledged)
        assert certificate_served(daemon) == first.leaf.fingerprint(hashes.SHA256())
        second = authority.issue(NAME, file_name="renewed")
        assert second.certificate == first.certificate
        os.kill(daemon.pid, signal.SIGHUP)
        assert eventually(lambda: certificate_served(daemon) == second.leaf.fingerprint(hashes.SHA256()))
        hello = client_hello(channel, 1, client_start(NAME, b"h3"))
        channel.send(push_crypto(2, hello, ack=True))
        for message in channel.until(2, Acknowledged):
            if hasattr(message, "data"):
                channel.send(push_crypto(1, message))
        (outcome,) = [one.outcome for one in channel.until(1, Done) if isinstance(one, Done)]
        assert outcome.peer_certificates == (first.leaf.public_bytes(Encoding.DER),)
        channel.send(push_cancel(2))


def test_reload_loads_a_chain_with_the_same_leaf(daemon: RunningDaemon, authority: Authority) -> None:
    issued = authority.issue(NAME, file_name="chain")
    register(daemon, issued)
    with issued.certificate.open("ab") as file:
        file.write(authority.root.read_bytes())
    # On a busy machine the daemon may have noticed the change by itself, and then there is nothing left to renew.
    assert daemon.ask("reload")["errors"] == []
    with HandshakeChannel(daemon.handshake_socket) as channel:
        client, _ = shake_hands(channel, 1, 2, client_start(NAME, b"h3"), server_start())
        assert len(client.peer_certificates) == 2
    assert daemon.ask("reload") == {"renewed": [], "errors": []}


def test_invalid_file_keeps_the_old_credential_and_does_not_stop_others(
    daemon: RunningDaemon, authority: Authority
) -> None:
    bad = authority.issue(NAME, file_name="bad")
    good = authority.issue("good.example.com", file_name="good")
    register(daemon, bad, "bad")
    register(daemon, good, "good", "good.example.com")
    bad.certificate.write_bytes(b"half a file")
    renewed = authority.issue("good.example.com", file_name="good")
    os.kill(daemon.pid, signal.SIGHUP)
    assert eventually(
        lambda: certificate_served(daemon, "good.example.com") == renewed.leaf.fingerprint(hashes.SHA256())
    )
    assert certificate_served(daemon) == bad.leaf.fingerprint(hashes.SHA256())
    problem = f"{bad.certificate}: no certificate in PEM form"
    assert eventually(lambda: problem in daemon.log.read_text())


# Users and locks.


def test_second_daemon_on_the_same_state_is_refused(daemon: RunningDaemon, public_directory: Path) -> None:
    with pytest.raises(RuntimeError, match="another handshaked is running on"):
        RunningDaemon(public_directory).start()
    assert len(daemon.worker_pids()) == 2  # and the first one has kept its sockets


@contextmanager
def daemon_of(user: int, directory: Path) -> Iterator[int]:
    """Run a daemon of an ordinary user in `directory`; return its process id."""
    need("public python")
    packages = [path for path in sys.path if path]
    command = [
        str(public_python()), "-m", "handshaked.daemon", "--workers=2",
        f"--state-directory={directory}/state", f"--runtime-directory={directory}/run",
    ]  # fmt: skip
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, user=user, group=user, extra_groups=[],
            env={"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *packages])},
        )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.terminate()
        assert process.wait(30) == 0, (directory / "log").read_text()


@pytest.mark.needs("root")
def test_daemon_runs_as_an_ordinary_user(public_directory: Path, issue: Issue) -> None:
    nobody = 65534
    os.chown(public_directory, nobody, nobody)
    control = public_directory / "run" / directories.CONTROL_SOCKET

    def workers() -> list[int]:
        try:
            with ControlClient(control) as client:
                return [worker["pid"] for worker in client.ask("status", {})["workers"] if worker["answers"]]
        except RefusedError:
            return []

    with daemon_of(nobody, public_directory) as pid:
        assert eventually(lambda: len(workers()) == 2), (public_directory / "log").read_text()
        issued = issue(NAME)
        with ControlClient(control) as client, issued.certificate.open() as certificate, issued.key.open() as key:
            client.ask(
                "register",
                {
                    "name": "web",
                    "alpns": ["h3"],
                    "server_names": [NAME],
                    "credentials": [{"certificate": str(issued.certificate), "key": str(issued.key)}],
                },
                (certificate.fileno(), key.fileno()),
            )
        with HandshakeChannel(public_directory / "run" / directories.HANDSHAKE_SOCKET) as channel:
            assert succeeds(channel)
        for one in (pid, *workers()):
            assert Path(f"/proc/{one}").stat().st_uid in (0, nobody)
            status = Path(f"/proc/{one}/status").read_text()
            assert f"\nUid:\t{nobody}\t{nobody}\t{nobody}\t{nobody}\n" in status
            # A process that is not dumpable belongs to root there: its own user cannot trace it or read its memory.
            assert Path(f"/proc/{one}/environ").stat().st_uid == 0
        state = public_directory / "state"
        assert {file.stat().st_uid for file in state.iterdir()} == {nobody}
        assert [file.name for file in state.iterdir() if file.stat().st_mode & 0o077] == []


def test_no_process_leaves_a_core_dump(daemon: RunningDaemon) -> None:
    for pid in (daemon.pid, *daemon.worker_pids()):
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["0", "0"]


# The log.


def test_log_has_a_line_for_each_handshake(daemon: RunningDaemon, issue: Issue) -> None:
    register(daemon, issue(NAME))
    with HandshakeChannel(daemon.handshake_socket) as channel:
        for number in range(3):
            assert succeeds(channel, 10 * number)
            channel.inbox.clear()
        hello = client_hello(channel, 1, client_start("u.example.com", b"h3"))
        channel.send(push_start(2, server_start(peer_address="192.0.2.1:443")), push_crypto(2, hello))
        assert channel.outcome(2).status == Status.REFUSED
        channel.send(push_cancel(1))
        channel.outcome(1)
        channel.send(push_start(3, server_start(timeout=0.01)))
        channel.outcome(3)
    daemon.stop()
    lines = [line for line in daemon.log.read_text().splitlines() if "outcome=" in line]
    assert len(lines) == 6 + 3
    assert sum("outcome=ok role=server" in line for line in lines) == 3
    assert sum("outcome=ok role=client" in line for line in lines) == 3
    served = next(line for line in lines if "outcome=ok role=server" in line)
    for word in (
        "registration=web",
        f"server_name={NAME}",
        "alpn=h3",
        "cipher=AES_128_GCM_SHA256",
        f"pid={os.getpid()}",
    ):
        assert word in served
    (refused,) = [line for line in lines if "unrecognized_name" in line]
    assert "peer=192.0.2.1:443" in refused
    assert sum("ETIMEDOUT" in line for line in lines) == 1
    assert sum("ECANCELED" in line for line in lines) == 1


def test_peer_cannot_forge_a_log_line(daemon: RunningDaemon, issue: Issue) -> None:
    register(daemon, issue(NAME))
    with HandshakeChannel(daemon.handshake_socket) as channel:
        hello = client_hello(channel, 1, client_start(NAME, b"x\noutcome=ok role=server alpn=h3"))
        channel.send(push_start(2, server_start()), push_crypto(2, hello))
        assert channel.outcome(2).status == Status.REFUSED
    daemon.stop()
    lines = daemon.log.read_text().splitlines()
    assert not [
        line for line in lines if line.startswith("outcome=") or " outcome=ok role=server" in line.split('"')[0]
    ]


def shown(secret: bytes) -> list[str]:
    """Return the forms that a secret could have in a text."""
    return [secret.hex(), secret.hex().upper(), base64.b64encode(secret).decode()[:24], repr(secret)[2:20]]


def test_log_contains_no_keys_or_secrets(public_directory: Path, issue: Issue) -> None:
    issued = issue(NAME)
    with RunningDaemon(public_directory, log_level="debug") as daemon:
        register(daemon, issued)
        seen = []
        with HandshakeChannel(daemon.handshake_socket) as channel:
            for number in range(1, 6):
                hello = client_hello(channel, number, client_start(NAME, b"h3"))
                channel.send(push_start(10 + number, server_start()), push_crypto(10 + number, hello, ack=True))
                seen += [secret.secret for secret in secrets_of(channel.until(10 + number, Acknowledged))]
        assert len(seen) == 15
        daemon.ask("reload")
        daemon.stop()
        log = daemon.log.read_text()
    assert "outcome=" in log
    pem = issued.key.read_text()
    key = load_pem_private_key(pem.encode(), None)
    scalar = key.private_numbers().private_value.to_bytes(32)  # type: ignore[union-attr] # an EC key
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for secret in [*seen, scalar, der[-40:]]:
        for form in shown(secret):
            assert form not in log
    for line in pem.splitlines()[1:-1]:
        assert line not in log
    assert "PRIVATE KEY" not in log
