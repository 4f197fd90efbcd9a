"""Peers of an emulated QUIC socket that attach descriptors."""

import os
import socket

import pytest

from handshaked.datapath.emulated import emulated_quic_socket


def test_peer_cannot_attach_descriptors() -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 16):
        pytest.skip("SO_PASSRIGHTS needs Linux 6.16")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        emulated_quic_socket(ours)
        with pytest.raises(PermissionError):
            socket.send_fds(theirs, [b"x"], [theirs.fileno()])
