"""Peers of an emulated QUIC socket that attach descriptors."""

import socket

import pytest

from handshaked.datapath.emulated import emulated_quic_socket


@pytest.mark.needs("SO_PASSRIGHTS (Linux 6.16)")
def test_peer_cannot_attach_descriptors() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        emulated_quic_socket(ours)
        with pytest.raises(PermissionError):
            socket.send_fds(theirs, [b"x"], [theirs.fileno()])
