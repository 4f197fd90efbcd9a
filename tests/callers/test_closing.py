"""Closing a Unix socket whose unread packets hold descriptors that linger."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from handshaked.callers import closing
from handshaked.callers.closing import Closer, close_unread
from handshaked.callers.threads import ThreadPool, Threads, run_in_thread
from handshaked.wire.attached import push_descriptors
from tests.lingering import lingering_pair
from tests.patience import PATIENCE, set_in_time, soon


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def attach(theirs: socket.socket, packet: bytes, sender: socket.socket) -> None:
    theirs.sendmsg([packet], push_descriptors([sender.fileno()]))


def test_lingering_descriptor_is_closed_in_a_thread() -> None:
    """An empty packet before it is not taken for the end of the queue."""

    async def scenario() -> None:
        closed = asyncio.Event()
        with lingering_pair() as (sender, receiver), pair() as (ours, theirs):
            theirs.send(b"first")
            theirs.send(b"")
            attach(theirs, b"", sender)
            attach(theirs, b"", sender)
            sender.close()
            close_unread(ours, Threads(1), closed.set)
            assert not closed.is_set()
            receiver.setblocking(False)
            while await asyncio.wait_for(asyncio.get_running_loop().sock_recv(receiver, 1 << 20), PATIENCE):
                pass
            await asyncio.wait_for(closed.wait(), PATIENCE)
            assert ours.fileno() == -1

    asyncio.run(scenario())


@pytest.mark.parametrize("packets", [0, 3])
def test_socket_without_descriptors_is_closed_at_once(packets: int) -> None:
    async def scenario() -> None:
        done: list[int] = []
        with pair() as (ours, theirs):
            for number in range(packets):
                theirs.send(bytes(number))
            if packets:
                ours.send(b"unread")
                theirs.close()
            close_unread(ours, Threads(0), lambda: done.append(ours.fileno()))
            assert done == [-1]

    asyncio.run(scenario())


def test_lingering_sockets_do_not_hold_threads_or_each_other() -> None:
    """Nobody reads what these sockets have sent, and each of them would linger for two minutes."""

    async def scenario() -> None:
        closer = Closer(ThreadPool(total=1, reserve=0), per_user=1)
        with ExitStack() as stack:
            pairs = [stack.enter_context(lingering_pair()) for _ in range(3)]
            await soon(asyncio.gather(*(closer.close(5000, (sender.detach(),)) for sender, _ in pairs)))
        assert closer.pending == 0

    asyncio.run(scenario())


def test_blocked_closes_take_a_limited_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Semaphore(0)
    root_is_served = threading.Event()
    closing_now: list[int] = []
    most: list[int] = []

    def block(descriptors: tuple[int, ...]) -> None:
        closing_now.append(descriptors[0])
        most.append(len(closing_now))
        if descriptors == (99,):
            root_is_served.set()
        go_on.acquire()
        closing_now.remove(descriptors[0])

    async def scenario() -> None:
        closer = Closer(ThreadPool(total=4, reserve=1), per_user=2)
        closed = [closer.close(uid, (10 * uid + number,)) for uid in (1, 2, 3) for number in range(4)]
        assert closer.pending == 12
        of_root = closer.close(0, (99,))  # root does not wait for the others
        await soon(asyncio.to_thread(set_in_time, root_is_served))
        for _ in range(13):
            go_on.release()
        await soon(asyncio.gather(*closed, of_root))
        assert closer.pending == 0

    monkeypatch.setattr(closing, "close_without_linger", block)
    asyncio.run(scenario())
    assert len(most) == 13
    assert max(most) <= 4


def test_nothing_is_closed_in_the_event_loop_when_there_are_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([RuntimeError("can't start new thread")] * 2)

    def run_sometimes(work: Callable[[], object], done: Callable[[], object]) -> None:
        for failure in failures:
            raise failure
        run_in_thread(work, done)

    monkeypatch.setattr("handshaked.callers.threads.run_in_thread", run_sometimes)

    async def scenario() -> None:
        reading, writing = os.pipe()
        closed = Closer().close(5000, (reading, writing))
        assert os.fstat(reading)
        await soon(closed)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(reading)

    asyncio.run(scenario())
