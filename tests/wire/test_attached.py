"""Descriptors attached to packets."""

import array
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from handshaked.wire.attached import CONTROL_SPACE, close_all, pull_descriptors, push_descriptors, refuse_descriptors


def rights(*descriptors: int) -> tuple[int, int, "array.array[int]"]:
    return (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))


def test_all_that_the_kernel_passes_is_received() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.sendmsg([b"x"], [rights(*[0] * 253)])
        _, control, flags, _ = ours.recvmsg(1, CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
        received = pull_descriptors(control)
        close_all(received)
        assert (len(received), flags & socket.MSG_CTRUNC) == (253, 0)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_copies_of_pushed_descriptors_are_pulled(tmp_path: Path, count: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, ExitStack() as files:
        sent = [files.enter_context((tmp_path / str(number)).open("wb")).fileno() for number in range(count)]
        theirs.sendmsg([b"x"], push_descriptors(iter(sent)))
        packet, control, _, _ = ours.recvmsg(1, CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
        received = pull_descriptors(control)
        found = [os.fstat(descriptor).st_ino for descriptor in received]
        close_all(received)
        assert packet == b"x"
        assert found == [os.fstat(descriptor).st_ino for descriptor in sent]
        assert set(received).isdisjoint(sent)


def test_other_ancillary_data_has_no_descriptors() -> None:
    assert not pull_descriptors([(socket.SOL_SOCKET, socket.SO_PASSCRED, bytes(12)), (0, socket.SCM_RIGHTS, bytes(4))])


@pytest.mark.needs("SO_PASSRIGHTS (Linux 6.16)")
def test_accepted_sockets_refuse_descriptors_too(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger,
    ):
        listener.bind(os.fspath(tmp_path / "socket"))
        listener.listen()
        assert refuse_descriptors(listener)
        stranger.connect(os.fspath(tmp_path / "socket"))
        accepted, _ = listener.accept()
        with accepted:
            with pytest.raises(PermissionError):
                stranger.sendmsg([b"x"], [rights(0)])
            accepted.sendmsg([b"x"], [rights(0)])  # the other direction is open
            close_all(pull_descriptors(stranger.recvmsg(1, CONTROL_SPACE)[1]))
