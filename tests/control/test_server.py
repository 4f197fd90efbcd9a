"""The control socket answers every command, whatever other callers do, even if the result is too long."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Hashable, Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest

from handshaked.callers.account import Limits
from handshaked.callers.closing import Closer
from handshaked.control.server import ControlServer
from handshaked.errors import RefusedError, UnavailableError
from handshaked.model import Caller
from handshaked.system.listening import open_listener
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.processes import ending
from handshaked.wire.attached import close_all, push_descriptors
from handshaked.wire.json_packets import Message
from tests.conftest import Issue
from tests.lingering import hand_over, lingering_pair
from tests.patience import soon

LONG = "x" * 3000


@pytest.fixture
def web(shared_daemon: RunningDaemon, issue: Issue) -> RunningDaemon:
    issued = issue("www.example.com")
    shared_daemon.register(
        "web", (issued.certificate, issued.key), alpns=["h3"], server_names=["www.example.com"], replace=True
    )
    return shared_daemon


def test_status_and_reload_truncate_many_problems(public_directory: Path) -> None:
    with RunningDaemon(public_directory, workers=1) as daemon:
        daemon.drop_ins.mkdir(parents=True)
        words = "".join(f'[registration.n{n}]\nalpns = ["h3"]\ncertificate = "/{LONG}"\n' for n in range(150))
        (daemon.drop_ins / "many.toml").write_text(words)
        for shown in (daemon.ask("reload")["errors"], daemon.ask("status")["problems"]):
            assert shown[-1] == f"and {150 - len(shown) + 1} more, see the log"


def test_long_registrations_are_listed_page_by_page(public_directory: Path, issue: Issue) -> None:
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


def test_answer_that_is_too_long_is_an_error(web: RunningDaemon) -> None:
    """The answer repeats the long server name several times."""
    with pytest.raises(RefusedError):
        web.ask("explain", server_name="a", alpns=["h3"] + [f"{n}{LONG}" for n in range(30)])


@pytest.mark.parametrize("packet", [b'{"command": "status"}', b"no message"])
def test_daemon_answers_while_a_descriptor_lingers_in_close(shared_daemon: RunningDaemon, packet: bytes) -> None:
    with lingering_pair() as (sender, receiver), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(30)
        sock.connect(os.fspath(shared_daemon.control_socket))
        rights = push_descriptors([sender.fileno()])
        hand_over(sender, shared_daemon.pid, lambda: sock.sendmsg([packet], rights))
        assert json.loads(sock.recv(200_000)).keys() <= {"result", "error"}
        assert shared_daemon.ask("status")["self_test"] == "ok"
        while receiver.recv(1 << 20):  # until the daemon has closed its end
            pass


def test_all_descriptors_are_closed_even_if_one_close_fails() -> None:
    mine, theirs = os.pipe()
    os.set_blocking(mine, False)
    close_all((-1, theirs))
    assert os.read(mine, 1) == b""
    os.close(mine)


HOLD = """
import os, socket, sys
os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
held = []
for _ in range(64):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    held.append(sock)
    try:
        sock.connect(sys.argv[1])
        sock.send(b'{"command": "subscribe"}')
        sock.recv(100)
    except OSError:
        pass
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.needs("root")
def test_root_can_connect_when_other_users_hold_all_connections(shared_daemon: RunningDaemon) -> None:
    with ExitStack() as holders:
        for uid in range(50001, 50005):
            command = [sys.executable, "-c", HOLD, os.fspath(shared_daemon.control_socket), str(uid)]
            holder = holders.enter_context(
                ending(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            )
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
        assert shared_daemon.ask("status")["self_test"] == "ok"


async def succeed(*_: object) -> Message:
    return {}


def test_command_that_fails_unexpectedly_is_answered(tmp_path: Path) -> None:
    async def fail(*_: object) -> Message:
        raise KeyError("a fault")

    async def scenario() -> None:
        with open_listener(tmp_path / "socket") as listener:
            server = ControlServer(listener, fail, lambda *_: lambda: None, lambda _: True, Closer())
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.setblocking(False)
                sock.connect(os.fspath(tmp_path / "socket"))
                sock.send(b'{"command": "reload"}')
                loop = asyncio.get_running_loop()
                assert json.loads(await soon(loop.sock_recv(sock, 1000)))["error"].startswith("internal error")
            await server.close()

    asyncio.run(scenario())


def test_command_in_progress_is_told_that_the_daemon_stops(tmp_path: Path) -> None:
    async def scenario() -> None:
        begun = asyncio.Event()

        async def wait(*_: object) -> Message:
            begun.set()
            await asyncio.Event().wait()
            return {}

        with open_listener(tmp_path / "socket") as listener:
            server = ControlServer(listener, wait, lambda *_: lambda: None, lambda _: True, Closer())
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.setblocking(False)
                sock.connect(os.fspath(tmp_path / "socket"))
                sock.send(b'{"command": "follow"}')
                await soon(begun.wait())
                await soon(server.close())
                answer = await soon(asyncio.get_running_loop().sock_recv(sock, 1000))
                assert json.loads(answer) == {"error": "the daemon is stopping"}

    asyncio.run(scenario())


def test_long_message_is_answered_if_the_grants_cannot_be_read(tmp_path: Path) -> None:
    def may_register(_: Caller) -> bool:
        raise UnavailableError("the registry is damaged")

    async def scenario() -> None:
        with open_listener(tmp_path / "socket") as listener:
            server = ControlServer(listener, succeed, lambda *_: lambda: None, may_register, Closer())
            loop = asyncio.get_running_loop()
            for _ in range(20):  # each must return the room for its descriptors
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                    sock.setblocking(False)
                    sock.connect(os.fspath(tmp_path / "socket"))
                    sock.send(b" " * 20_000)
                    assert json.loads(await soon(loop.sock_recv(sock, 1000))) == {"error": "the registry is damaged"}
            await server.close()

    asyncio.run(scenario())


class StuckCloser(Closer):
    """Closes nothing before ``go_on``; ``most`` is the largest number of descriptors that waited."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self.waits = asyncio.Event()
        self._stuck: list[tuple[tuple[int, ...], asyncio.Future[None]]] = []

    def close(self, user: Hashable, descriptors: Iterable[int]) -> asyncio.Future[None]:
        self._stuck.append((tuple(descriptors), asyncio.get_running_loop().create_future()))
        self.most = max(self.most, sum(len(some) for some, _ in self._stuck))
        self.waits.set()
        return self._stuck[-1][1]

    def go_on(self) -> None:
        """Close the descriptors of the oldest packet."""
        descriptors, closed = self._stuck.pop(0)
        close_all(descriptors)
        closed.set_result(None)
        if not self._stuck:
            self.waits.clear()


def test_packets_wait_until_there_is_room_for_their_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handshaked.control.server._LIMITS", Limits(descriptors=600))

    async def scenario() -> None:
        closer = StuckCloser()
        with open_listener(tmp_path / "socket") as listener, ExitStack() as stack:
            server = ControlServer(listener, succeed, lambda *_: lambda: None, lambda _: True, closer)
            sockets = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) for _ in range(5)]
            for sock in sockets:
                sock.connect(os.fspath(tmp_path / "socket"))
                socket.send_fds(sock, [b'{"command": "reload"}'], [sock.fileno()] * 200)
                sock.setblocking(False)
            loop = asyncio.get_running_loop()
            answers = [asyncio.ensure_future(loop.sock_recv(sock, 1000)) for sock in sockets]
            while not all(answer.done() for answer in answers):
                await soon(closer.waits.wait())
                for _ in range(100):
                    await asyncio.sleep(0)  # all that need not wait go on
                closer.go_on()
            while closer.waits.is_set():
                closer.go_on()
            await server.close()
            assert closer.most == 400

    asyncio.run(scenario())
