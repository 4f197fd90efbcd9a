"""Workers that are killed, hang, and restart: the supervisor replaces them, and only their handshakes are lost."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from handshaked.errors import Status
from handshaked.model import Outcome
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.shim import HandshakeClient, Message
from handshaked.system.directories import DATABASE
from handshaked.system.listening import open_listener
from handshaked.testing.authority import Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.family import push_crypto, push_start
from handshaked.wire.json_packets import send_message
from handshaked.wire.messages import Acknowledged, Done
from handshaked.workers.supervisor import Supervisor
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
from tests.patience import PATIENCE, soon

NAME = "a.example.com"
OK = (Status.OK, Status.OK)


def register(daemon: RunningDaemon, issued: Issued) -> None:
    daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])


def succeeds(channel: HandshakeChannel) -> bool:
    """Return whether a handshake with the registration succeeds."""
    client, server = shake_hands(channel, 100, 101, client_start(NAME, b"h3"), server_start())
    return (client.status, server.status) == OK


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop the process `pid` in this block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def channel_to(daemon: RunningDaemon, worker: int) -> HandshakeChannel:
    """Return a connection that `worker` serves, with handshake 1 begun: the other workers are stopped for a moment."""
    others = [pid for pid in daemon.worker_pids() if pid != worker]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        channel = HandshakeChannel(daemon.handshake_socket)
        channel.send(push_start(1, server_start(), ack=True))
        assert channel.until(1, Acknowledged) == [Acknowledged()]
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
    return channel


def test_killed_worker_ends_only_its_own_handshakes(daemon: RunningDaemon, issue: Issue) -> None:
    register(daemon, issue(NAME))
    victim, survivor = daemon.worker_pids()
    with channel_to(daemon, victim) as lost, channel_to(daemon, survivor) as kept:
        os.kill(victim, signal.SIGKILL)
        lost.sock.settimeout(1)  # seconds: the requirement
        assert lost.closed()
        hello = client_hello(kept, 2, client_start(NAME, b"h3"))
        kept.send(push_crypto(1, hello, ack=True))
        assert len(secrets_of(kept.until(1, Acknowledged))) == 3
        with HandshakeChannel(daemon.handshake_socket) as following:
            assert succeeds(following)
    assert eventually(lambda: len(daemon.worker_pids()) == 2)
    assert victim not in daemon.worker_pids()
    assert survivor in daemon.worker_pids()
    assert daemon.ask("status")["worker_restarts"] == 1


def test_caller_of_a_killed_worker_gets_an_error_within_a_second(daemon: RunningDaemon, issue: Issue) -> None:
    register(daemon, issue(NAME))

    async def run() -> Outcome:
        client = HandshakeClient(daemon.handshake_socket)
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        begun = asyncio.Event()

        def note(message: Message) -> None:
            if isinstance(message, Done):
                outcome.set_result(message.outcome)

        client.start(server_start(), note, begun.set)
        await soon(begun.wait())
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        try:
            return await asyncio.wait_for(outcome, 1)
        finally:
            client.close()

    workers = daemon.worker_pids()
    assert asyncio.run(run()).status == Status.PEER_GONE
    assert eventually(lambda: len(daemon.worker_pids()) == 2)
    with HandshakeChannel(daemon.handshake_socket) as channel:
        assert succeeds(channel)


def test_restarted_worker_knows_new_registrations(daemon: RunningDaemon, issue: Issue) -> None:
    first, second = daemon.worker_pids()
    for pid in (first, second):
        os.kill(pid, signal.SIGKILL)
    register(daemon, issue(NAME))
    assert eventually(lambda: len(daemon.worker_pids()) == 2)
    for pid in daemon.worker_pids():
        with channel_to(daemon, pid) as channel:
            assert succeeds(channel)


@pytest.mark.slow
def test_hung_worker_does_not_keep_others_from_new_registrations(daemon: RunningDaemon, issue: Issue) -> None:
    silent, busy = daemon.worker_pids()
    with stopped(silent):
        register(daemon, issue(NAME))
        with HandshakeChannel(daemon.handshake_socket) as channel:
            assert succeeds(channel)
        status = daemon.ask("status")
        assert [worker["pid"] for worker in status["workers"] if worker["answers"]] == [busy]
    # A worker that was away catches up, and its late answers are not taken for those to later questions.
    assert eventually(lambda: len(daemon.worker_pids()) == 2)
    for pid in daemon.worker_pids():
        with channel_to(daemon, pid) as channel:
            assert succeeds(channel)


@pytest.mark.slow
def test_hung_worker_is_replaced(public_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")  # it is looked for every second
    with RunningDaemon(public_directory) as daemon:
        hung, _ = daemon.worker_pids()
        os.kill(hung, signal.SIGSTOP)
        assert eventually(lambda: f"worker {hung} does not answer and is killed" in daemon.log.read_text(), 60)
        assert eventually(lambda: len(daemon.worker_pids()) == 2)
        assert hung not in daemon.worker_pids()


@pytest.mark.slow
def test_stopping_does_not_wait_for_a_hung_worker(daemon: RunningDaemon) -> None:
    silent, _ = daemon.worker_pids()
    os.kill(silent, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(daemon.control_socket))
        send_message(sock, {"command": "status"})
        for _ in range(3):
            daemon.ask("list")  # meanwhile the question has come in
        assert daemon.stop() == 0  # and not killed by its keeper, after 30 s


def test_worker_that_is_being_started_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("handshaked.workers.supervisor._STOP_SECONDS", PATIENCE)
    SqliteRegistryWriter(tmp_path / DATABASE).close()
    arguments = [f"--state-directory={tmp_path}", "--log-level=info", "--log-format=text"]

    async def scenario() -> None:
        with open_listener(tmp_path / "socket") as listener:
            supervisor = Supervisor(listener, 1, arguments, lambda _: None, pytest.fail)
            starting = asyncio.create_task(supervisor.start())
            await asyncio.sleep(0)  # the worker's task exists
            await asyncio.sleep(0)  # and has begun to start its process
            await supervisor.stop()
            await soon(starting)

    asyncio.run(scenario())
    assert "did not stop in time" not in caplog.text


def test_stopping_does_not_wait_for_a_slot_that_waits_to_start_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("handshaked.workers.supervisor._STOP_SECONDS", 0.0)
    impossible = ["an argument with a \0"]

    async def scenario() -> None:
        with open_listener(tmp_path / "socket") as listener:
            supervisor = Supervisor(listener, 1, impossible, lambda _: None, pytest.fail)
            await supervisor.start()
            await soon(supervisor.stop())

    asyncio.run(scenario())
    assert "a task of the supervisor of workers ended unexpectedly" in caplog.text
    assert "did not stop in time" not in caplog.text


def test_stopping_does_not_wait_for_a_killed_worker_that_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one in an uninterruptible system call."""
    for name in ("_STOP_SECONDS", "_KILLED_SECONDS"):
        monkeypatch.setattr(f"handshaked.workers.supervisor.{name}", 0.0)
    monkeypatch.setattr(asyncio.subprocess.Process, "kill", lambda _: None)
    SqliteRegistryWriter(tmp_path / DATABASE).close()
    arguments = [f"--state-directory={tmp_path}", "--log-level=info", "--log-format=text"]
    start_process = asyncio.create_subprocess_exec
    started: list[asyncio.subprocess.Process] = []

    async def note_process(*words: Any, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start_process(*words, **options))
        return started[-1]

    async def scenario() -> None:
        with open_listener(tmp_path / "socket") as listener:
            supervisor = Supervisor(listener, 1, arguments, lambda _: None, pytest.fail)
            await supervisor.start()
            await soon(supervisor.ready())
            [worker] = started
            worker.send_signal(signal.SIGSTOP)
            await soon(supervisor.stop())
            worker.send_signal(signal.SIGKILL)
            await soon(worker.wait())

    monkeypatch.setattr(asyncio, "create_subprocess_exec", note_process)
    asyncio.run(scenario())
    assert f"worker {started[0].pid} was killed but has not ended" in caplog.text


COMPROMISED = """
import socket, sys
[parent] = (word.partition("=")[2] for word in sys.argv if word.startswith("--parent="))
with socket.socket(fileno=int(parent)) as sock:
    for _ in range(3):
        sock.send(b'{"event": "outcomes", "records": [], "counts": {"handshakes": [[]]}}')
    sock.recv(1000)
"""


def test_worker_that_sends_a_malformed_message_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    SqliteRegistryWriter(tmp_path / DATABASE).close()
    arguments = [f"--state-directory={tmp_path}", "--log-level=info", "--log-format=text"]
    start_process = asyncio.create_subprocess_exec
    started: list[asyncio.subprocess.Process] = []

    async def start_compromised(python: str, *words: str, **options: Any) -> asyncio.subprocess.Process:
        words = words if started else ("-c", COMPROMISED, *words)
        started.append(await start_process(python, *words, **options))
        return started[-1]

    async def scenario() -> None:
        with open_listener(tmp_path / "socket") as listener:
            supervisor = Supervisor(listener, 1, arguments, lambda _: None, pytest.fail)
            await supervisor.start()
            await soon(supervisor.ready())
            await soon(supervisor.stop())

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_compromised)
    asyncio.run(scenario())
    pid = started[0].pid
    said = f"worker {pid} has sent a malformed message and is killed: its field counts is missing or malformed"
    assert caplog.messages == [said, f"worker {pid} ended with status -9; it is restarted in 0.1 s"]


def test_worker_that_does_not_run_does_not_answer(tmp_path: Path) -> None:
    """Otherwise, a daemon that has just begun to start its workers looks healthy."""

    async def scenario() -> None:
        with open_listener(tmp_path / "socket") as listener:
            supervisor = Supervisor(listener, 2, [], lambda _: None, pytest.fail)
            assert await supervisor.status() == [{"slot": n, "pid": None, "answers": False} for n in range(2)]

    asyncio.run(scenario())


def test_slot_whose_task_ended_unexpectedly_gets_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    SqliteRegistryWriter(tmp_path / DATABASE).close()
    arguments = [f"--state-directory={tmp_path}", "--log-level=info", "--log-format=text"]
    start_process = asyncio.create_subprocess_exec
    attempts = 0

    async def start_process_once_not(*words: Any, **options: Any) -> asyncio.subprocess.Process:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError("can't start new thread")  # which asyncio needs to wait for the process
        return await start_process(*words, **options)

    async def scenario() -> None:
        with open_listener(tmp_path / "socket") as listener:
            supervisor = Supervisor(listener, 1, arguments, lambda _: None, pytest.fail)
            await supervisor.start()
            await soon(supervisor.ready())
            await supervisor.stop()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_process_once_not)
    asyncio.run(scenario())
    assert "a task of the supervisor of workers ended unexpectedly" in caplog.text


def test_worker_ends_with_its_parent(public_directory: Path) -> None:
    with RunningDaemon(public_directory) as daemon:
        workers = daemon.worker_pids()
        daemon.stop(signal.SIGKILL)
        assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
