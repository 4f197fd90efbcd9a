"""Under systemd in the lab: the demultiplexer forwards a connection without a capability, and outside the network.

The argument is the first datagram of a client, in hexadecimal, for ``web.example.com`` and ``h3``.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.kernel.inside.scene import PATIENCE, must, run, wait_until_inactive

INITIAL = bytes.fromhex(sys.argv[1])
SERVICE, BINDER = "handshaked-demux.service", "handshaked-demux-sockets.service"
NET_BIND_SERVICE = 10


def journal() -> str:
    """Return the log of the services."""
    return must("journalctl", "--unit=handshaked-demux*", "--unit=handshaked", "--output=cat")


def pid_of(service: str) -> int:
    """Return the main process of `service`."""
    return int(must("systemctl", "show", "--property=MainPID", "--value", service))


def capabilities_of(pid: int) -> int:
    """Return the effective and permitted capabilities of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = {int(line.split()[1], 16) for line in lines if line.startswith(("CapEff:", "CapPrm:", "CapAmb:"))}
    return max(masks)


def endpoint() -> socket.socket:
    """Open the socket of a server or a client."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(1)
    return sock


def exchange(server: socket.socket) -> None:
    """Send the first datagram of a connection from a new client and its answer back, both again until they arrive."""
    deadline = time.monotonic() + PATIENCE
    with endpoint() as client:
        client.connect(("127.0.0.1", 443))
        while True:
            assert time.monotonic() < deadline, journal()
            client.send(INITIAL)
            with suppress(TimeoutError):
                datagram, address = server.recvfrom(2000)
                assert datagram == INITIAL
                server.sendto(b"\xc0answer", address)
                assert client.recv(100) == b"\xc0answer"
                break
        flows = must("ss", "--udp", "--numeric", "state", "established")
        assert f"127.0.0.1:{client.getsockname()[1]}" in flows, "the flow has no socket of its own:\n" + flows


def replace_binder() -> None:
    """Kill the binder, and wait until its successor serves."""
    before = pid_of(BINDER)
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while pid_of(BINDER) in (0, before):
        assert time.monotonic() < deadline, journal()
        time.sleep(0.1)


must("mount", "-t", "tmpfs", "tmpfs", "/var/lib")
must("systemctl", "start", "dbus.socket", "systemd-journald.service")
must("handshakectl", "install-systemd")
must("systemctl", "start", "handshaked.service", "handshaked-demux.socket")
with endpoint() as server:
    target = ("forward", f"127.0.0.1:{server.getsockname()[1]}")
    must("handshakectl", "register", "web", "--server-name=web.example.com", "--alpn=h3", "--deliver", *target)
    started = run("systemctl", "start", SERVICE)
    assert started.returncode == 0, journal()
    exchange(server)
    assert capabilities_of(pid_of(SERVICE)) == 0
    assert capabilities_of(pid_of(BINDER)) == 1 << NET_BIND_SERVICE
    assert os.readlink(f"/proc/{pid_of(SERVICE)}/ns/net") != os.readlink("/proc/self/ns/net")
    replace_binder()
    exchange(server)
    must("systemctl", "restart", SERVICE)
    exchange(server)
must("systemctl", "stop", SERVICE)
for unit in (BINDER, "handshaked-demux-sockets.socket"):
    wait_until_inactive(unit, "nothing may keep the right to bind ports without the demultiplexer")
must("systemctl", "stop", "handshaked-demux.socket")
