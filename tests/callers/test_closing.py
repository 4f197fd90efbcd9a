"""Closing a Unix socket whose unread packets hold descriptors that linger."""

import array
import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from handshaked.callers.closing import close_unread
from handshaked.callers.threads import Threads
from tests.lingering import lingering_pair
from tests.patience import PATIENCE


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def attach(theirs: socket.socket, packet: bytes, sender: socket.socket) -> None:
    theirs.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sender.fileno()]))])


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
