"""The daemon is restarted, and killed in mid-handshake: mounts go on, others are served by its successor."""

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
    """A client that has the server's first flight, and does not answer it."""
    sock = start_tls()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        tls.wrap_bio(incoming, outgoing, server_hostname="server.test").do_handshake()
    sock.sendall(outgoing.read())
    assert sock.recv(1) == b"\x16"
    return sock


def ends(sock: socket.socket) -> None:
    """The server closes the connection, sooner or later."""
    sock.settimeout(30)
    while sock.recv(65536):
        pass
    sock.close()


with running:
    running.register("nfs", (server.certificate, server.key), alpns=["sunrpc"], allow_kernel=True)
    serving(running)
    with mounted() as directory:
        write_and_read(directory)

        # Stopped in mid-handshake: the consumer is told, and what is served next is served by the successor.
        stuck = in_mid_handshake()
        running.stop(signal.SIGTERM)
        ends(stuck)
        write_and_read(directory)
        running.start()
        serving(running)
        handshake(tls).close()
        write_and_read(directory)

        # A worker killed in mid-handshake: nfsd gives up on that one by itself.
        stuck = in_mid_handshake()
        (worker,) = running.worker_pids()
        os.kill(worker, signal.SIGKILL)
        ends(stuck)
        serving(running)
        handshake(tls).close()

        # The whole daemon killed, with requests that come while nobody is there to hear of them.
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
