"""What systemd and the demultiplexer tell each other: sockets (sd_listen_fds(3)) and states (sd_notify(3))."""

import os
import socket

_FIRST_DESCRIPTOR = 3


def inherited_sockets() -> list[socket.socket]:
    """The sockets that systemd has opened for this process, in the order of its unit. The environment forgets them."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "0")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return []
    found = [socket.socket(fileno=_FIRST_DESCRIPTOR + index) for index in range(int(count))]
    for sock in found:
        sock.set_inheritable(False)
    return found


def notify(state: str) -> None:
    """Tell systemd of `state`, if it wants to know."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
