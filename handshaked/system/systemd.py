"""The protocols between systemd and a service: socket activation (sd_listen_fds(3)), notification (sd_notify(3))."""

import logging
import os
import socket
import time
from collections.abc import Iterable

log = logging.getLogger(__name__)

_FIRST_DESCRIPTOR = 3


def inherited_sockets() -> list[tuple[str, socket.socket]]:
    """Return the sockets that systemd opened for this process, in the order of its units, with the names from the units
    (or empty strings). Remove the variables from the environment.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "0")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()):
        return []
    found = []
    for index in range(int(count)):
        sock = socket.socket(fileno=_FIRST_DESCRIPTOR + index)
        sock.set_inheritable(False)
        found.append((names[index] if index < len(names) else "", sock))
    return found


def by_name(inherited: Iterable[tuple[str, socket.socket]]) -> dict[str, socket.socket]:
    """Return the sockets by the last component of their path, or by the name from the unit if they have no path."""
    found: dict[str, socket.socket] = {}
    for name, sock in inherited:
        address = sock.getsockname()
        if isinstance(address, str) and address:
            found[os.path.basename(address)] = sock
        elif name:
            found[name] = sock
    return found


def notify(**states: str) -> None:
    """Send `states` to systemd, if it asked for notifications: ``notify(READY="1", STATUS="..")``.

    A notification that cannot be sent is lost; the watchdog's are repeated, and systemd restarts what is silent.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    message = "\n".join(f"{name}={value}" for name, value in states.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
    except OSError as error:
        log.warning("cannot notify systemd: %s", error)


def notify_reloading() -> None:
    """Notify systemd of the start of a reload; READY ends it."""
    notify(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))


def watchdog_interval() -> float | None:
    """Return the longest interval in seconds between WATCHDOG=1 notifications, None without a watchdog."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not microseconds or pid not in (None, "", str(os.getpid())):
        return None
    return int(microseconds) / 1e6
