"""Mounts survive restarts and crashes of the daemon during a handshake; its successor serves new ones."""

import os
import signal
import socket
import ssl
from contextlib import suppress

from tests.kernel.inside.rpc import context, handshake, start_tls
from tests.kernel.inside.scene import authority, daemon, mounted, serve_nfs, serving, write_and_read

ca = authority()
server = ca.issue("server.test")
tls = context(ca.root)
serve_nfs(threads=8)

running = daemon(f'[client]\ntrust = "{ca.root}"\n')


def in_mid_handshake() -> socket.socket:
    """Return the socket of a client that has received the server's first flight and does not answer."""
    sock = start_tls()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        tls.wrap_bio(incoming, outgoing, server_hostname="server.test").do_handshake()
    sock.sendall(outgoing.read())
    assert sock.recv(1) == b"\x16"
    return sock


def ends(sock: socket.socket) -> None:
    """Wait until the server closes the connection."""
    sock.settimeout(30)
    while sock.recv(65536):
        pass
    sock.close()


with running:
    running.register("nfs", (server.certificate, server.key), alpns=["sunrpc"], allow_kernel=True)
    serving(running)
    with mounted() as directory:
        write_and_read(directory)

        # The daemon is stopped during a handshake: the consumer gets the error, and the successor serves new ones.
        stuck = in_mid_handshake()
        running.stop(signal.SIGTERM)
        ends(stuck)
        write_and_read(directory)
        running.start()
        serving(running)
        handshake(tls).close()
        write_and_read(directory)

        # A worker is killed during a handshake: nfsd gives up on it after its timeout.
        stuck = in_mid_handshake()
        (worker,) = running.worker_pids()
        os.kill(worker, signal.SIGKILL)
        ends(stuck)
        serving(running)
        handshake(tls).close()

        # The daemon is killed, and requests arrive while it is not running.
        stuck = in_mid_handshake()
        running.stop(signal.SIGKILL)
        early = start_tls()
        running.start()
        serving(running)
        ends(stuck)
        early.close()
        handshake(tls).close()
    with mounted() as directory:
        write_and_read(directory)
