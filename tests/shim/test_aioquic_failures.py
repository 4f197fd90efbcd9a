"""aioquic with its TLS in the daemon: rejected handshakes, absent daemons, and cancellation."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode

from handshaked.errors import Alert
from handshaked.shim import HandshakeClient
from handshaked.shim.aioquic import connect, serve
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.processes import ending
from tests.conftest import Issue
from tests.handshake_channel import eventually
from tests.shim.conftest import QUIC_NAME
from tests.shim.peers import Caller, refusal, serving, visiting


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize(
    ("name", "alpn", "alert"),
    [
        ("unknown.example.com", "h3", Alert.UNRECOGNIZED_NAME),
        (QUIC_NAME, "unknown", Alert.NO_APPLICATION_PROTOCOL),
        (None, "h3", Alert.MISSING_EXTENSION),
    ],
)
def test_rejected_client_gets_alert(path: Path, name: str | None, alpn: str, alert: Alert, ours: bool) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        async with serving(daemon=path) as server:
            ended = await refusal(server.port, name, alpn, client=client if ours else None)
            assert ended.error_code == alert.quic_error
        client.close()

    run(work())


def test_server_can_restrict_protocols_and_registration(path: Path) -> None:
    async def work() -> None:
        async with serving(daemon=path, alpns=["h3"]) as server:
            assert (await refusal(server.port, QUIC_NAME, "hq")).error_code == Alert.NO_APPLICATION_PROTOCOL.quic_error
        async with serving(daemon=path, registration="large") as server:
            assert (await refusal(server.port, QUIC_NAME, "h3")).error_code == Alert.UNRECOGNIZED_NAME.quic_error

    run(work())


@pytest.mark.parametrize(
    ("fault", "by_daemon"), [("authority", True), ("authority", False), ("name", False), ("expired", False)]
)
def test_client_rejects_server_that_it_cannot_verify(
    path: Path, authority: Authority, issue: Issue, tmp_path: Path, fault: str, by_daemon: bool
) -> None:
    name = {"authority": QUIC_NAME, "name": "other.example.com", "expired": QUIC_NAME}[fault]
    root = Authority(tmp_path, "another CA").root if fault == "authority" else authority.root
    issued = issue(QUIC_NAME)
    if fault == "expired":
        issued = authority.issue(QUIC_NAME, valid=(-3, -1), file_name="quic-expired")
    alert = {"authority": Alert.UNKNOWN_CA, "name": Alert.BAD_CERTIFICATE, "expired": Alert.CERTIFICATE_EXPIRED}[fault]

    async def work() -> None:
        client = HandshakeClient(path)
        side: dict[str, Any] = {"daemon": path} if by_daemon else {"certificate": issued, "alpns": ["h3"]}
        async with serving(**side) as server:
            ended = await refusal(server.port, name, "h3", root=root, client=client)
            assert ended.error_code == alert.quic_error
            assert ended.reason_phrase
        client.close()

    run(work())


def test_private_keys_and_unsupported_settings_are_rejected(path: Path, issue: Issue, tmp_path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        issued = issue(QUIC_NAME)
        holding = QuicConfiguration(is_client=False)
        holding.load_cert_chain(issued.certificate, issued.key)
        with pytest.raises(ValueError, match="register it with the daemon"):
            await serve("127.0.0.1", 0, configuration=holding, client=client)
        holding.is_client = True
        with pytest.raises(ValueError, match="register it with the daemon"):
            async with connect("127.0.0.1", 1, configuration=holding, client=client):
                pass
        with pytest.raises(ValueError, match="capath is not supported"):
            async with connect("127.0.0.1", 1, configuration=QuicConfiguration(capath=str(tmp_path)), client=client):
                pass

    run(work())


def test_missing_daemon_ends_connections_with_internal_error(tmp_path: Path, path: Path, issue: Issue) -> None:
    nothing = tmp_path / "nothing"

    async def work() -> None:
        async with serving(daemon=nothing) as server:
            ended = await refusal(server.port, QUIC_NAME, "h3")
            assert ended.error_code == QuicErrorCode.INTERNAL_ERROR
        async with serving(certificate=issue(QUIC_NAME), alpns=["h3"]) as server:
            ended = await refusal(server.port, QUIC_NAME, "h3", client=nothing)
            assert ended.error_code == QuicErrorCode.INTERNAL_ERROR
            assert "cannot start the handshake in the daemon: No such file" in ended.reason_phrase

    run(work())


def test_silent_daemon_holds_connection_but_not_event_loop(
    daemon: RunningDaemon, authority: Authority, issue: Issue
) -> None:
    issued = issue(QUIC_NAME)
    daemon.register("quic", (issued.certificate, issued.key), alpns=["h3"], server_names=[QUIC_NAME])
    workers = daemon.worker_pids()

    async def work() -> None:
        client = HandshakeClient(daemon.handshake_socket)
        async with serving(daemon=daemon.handshake_socket) as server:
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)

            async def connected() -> bytes:
                async with visiting(server.port, QUIC_NAME, "h3", root=authority.root, client=client) as caller:
                    return await caller.echoed(b"hello")

            task = asyncio.create_task(connected())
            turns = 0
            late = asyncio.get_running_loop().time() + 0.5
            while asyncio.get_running_loop().time() < late:
                await asyncio.sleep(0)
                turns += 1
            assert turns > 1000
            assert not task.done()
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
            assert await task == b"hello"
        client.close()

    run(work())


def test_crash_of_daemon_ends_pending_connections_only(
    daemon: RunningDaemon, authority: Authority, issue: Issue
) -> None:
    issued = issue(QUIC_NAME)
    daemon.register("quic", (issued.certificate, issued.key), alpns=["h3"], server_names=[QUIC_NAME])
    workers = daemon.worker_pids()

    async def work() -> None:
        async with serving(daemon=daemon.handshake_socket) as server:
            async with visiting(server.port, QUIC_NAME, "h3", root=authority.root) as before:
                await before.ping()  # the server has completed the handshake too
                for pid in workers:
                    os.kill(pid, signal.SIGSTOP)
                refused = asyncio.create_task(refusal(server.port, QUIC_NAME, "h3"))
                await asyncio.to_thread(eventually, lambda: len(server.connections) > 1)
                for pid in workers:
                    os.kill(pid, signal.SIGKILL)
                assert (await refused).error_code == QuicErrorCode.INTERNAL_ERROR
                # An established connection does not need the daemon.
                assert await before.echoed(b"still here") == b"still here"
            await asyncio.to_thread(eventually, lambda: len(daemon.worker_pids()) == 2)
            async with visiting(server.port, QUIC_NAME, "h3", root=authority.root) as after:
                assert await after.echoed(b"again") == b"again"

    run(work())


def test_close_during_handshake_leaks_nothing(daemon: RunningDaemon, authority: Authority, issue: Issue) -> None:
    issued = issue(QUIC_NAME)
    daemon.register("quic", (issued.certificate, issued.key), alpns=["h3"], server_names=[QUIC_NAME])

    async def work() -> None:
        client = HandshakeClient(daemon.handshake_socket)
        async with serving(daemon=daemon.handshake_socket) as server:
            for turns in (0, 1, 2, 5, 10, 50):
                async with visiting(
                    server.port, QUIC_NAME, "h3", root=authority.root, client=client, wait_connected=False
                ) as caller:
                    caller.transmit()
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    caller.close()
                    await caller.wait_closed()
            async with visiting(server.port, QUIC_NAME, "h3", root=authority.root, client=client) as caller:
                assert await caller.echoed(b"hello") == b"hello"
        client.close()

    run(work())
    assert eventually(lambda: sum(one["in_flight"] for one in daemon.ask("status")["workers"]) == 0)
    assert "Traceback" not in daemon.log.read_text()


def test_cancelled_connect_leaks_nothing(path: Path, shared_daemon: RunningDaemon) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        with ExitStack() as stack:
            hole = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            hole.bind(("127.0.0.1", 0))
            hole.setblocking(False)
            port = hole.getsockname()[1]

            async def connected() -> Caller:
                async with visiting(port, QUIC_NAME, "h3", client=client) as caller:
                    return caller

            task = asyncio.create_task(connected())
            await asyncio.get_running_loop().sock_recv(hole, 2000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        client.close()

    run(work())
    assert eventually(lambda: sum(one["in_flight"] for one in shared_daemon.ask("status")["workers"]) == 0)


_WAITING_PROGRAM = """
import asyncio, socket, sys
from pathlib import Path
from handshaked.shim import HandshakeClient
from tests.shim.peers import visiting

async def work():
    hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    hole.bind(("127.0.0.1", 0))
    hole.setblocking(False)
    client = HandshakeClient(Path(sys.argv[1]))

    async def tell():
        await asyncio.get_running_loop().sock_recv(hole, 2000)
        print("waiting", flush=True)

    telling = asyncio.create_task(tell())
    try:
        async with visiting(hole.getsockname()[1], "quic.example.com", "h3", client=client):
            pass
    finally:
        client.close()
        hole.close()

asyncio.run(work())
"""


def test_interrupt_during_handshake_ends_program_cleanly(path: Path) -> None:
    with ending(
        subprocess.Popen(
            # A shell that runs the tests in the background makes them ignore SIGINT, which is inherited.
            ["env", "--default-signal=INT", sys.executable, "-W", "error", "-c", _WAITING_PROGRAM, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline() == "waiting\n"
        program.send_signal(signal.SIGINT)
        error = program.stderr.read()
        assert program.wait(20) == -signal.SIGINT
    assert error.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert "Exception ignored" not in error
