"""``doctor``: check the daemon and what it depends on, and suggest a fix for each finding."""

import argparse
import ctypes
import os
import shutil
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.text import Text

from handshaked import __version__
from handshaked.cli.output import Result, ask, console, print_json
from handshaked.errors import RefusedError
from handshaked.registry.expiry import expires
from handshaked.registry.mode_advice import advise
from handshaked.system import directories
from handshaked.workers.watchdog import NOT_YET

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "bold red"}
_TIME_ERROR = 5
_GENERIC, _CONTROL, _GET_FAMILY, _FAMILY_NAME = 16, 16, 3, 2
_NLMSG_ERROR = 2
_SYSTEMD = Path("/run/systemd/system")
_SYSTEM_SOCKETS = Path("/run/handshaked")
_NEEDED_SOCKETS = {
    "handshaked.service": ("handshaked-netlink.socket", "kernel upcalls are not handled"),
    "handshaked-demux.service": (
        "handshaked-demux-sockets.socket",
        "new connections share one UDP socket, and none is forwarded",
    ),
}
"""The socket unit that each service needs, and what does not work without it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: its level (``ok``, ``note``, ``warning`` or ``fault``), what was found, and the fix."""

    level: str
    what: str
    fix: str = ""


def doctor(arguments: argparse.Namespace) -> int:
    """Run ``doctor``; return 1 if there is a fault."""
    findings = list(examine(arguments))
    if arguments.json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            line = Text(f"{finding.level:8}", style=_STYLES[finding.level])
            line.append(finding.what, style="default")
            console.print(line)
            if finding.fix:
                console.print(Text(f"        -> {finding.fix}"))
    return 1 if any(finding.level == "fault" for finding in findings) else 0


def examine(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield the findings of all checks."""
    try:
        status = ask(arguments, "status", {})
    except RefusedError as error:
        yield Finding("fault", str(error), _fix_for_no_answer(arguments.socket))
    else:
        yield from _daemon(status)
        yield from _certificates(arguments, status)
        yield from _bus(status)
    yield from _kernel()
    yield from _clock()
    yield from _permissions(arguments.socket)
    if _SYSTEMD.exists() and shutil.which("systemctl") is not None:
        yield from examine_units(_systemctl)


def _fix_for_no_answer(path: Path) -> str:
    if not path.exists():
        return "systemctl start handshaked.socket; without systemd, run handshaked; for another socket, use --socket"
    return "systemctl restart handshaked; see the log: journalctl -u handshaked"


def _daemon(status: Result) -> Iterator[Finding]:
    if status["version"] != __version__:
        what = f"the daemon has version {status['version']}, handshakectl {__version__}"
        yield Finding("warning", what, "systemctl restart handshaked")
    else:
        yield Finding("ok", f"handshaked {status['version']} answers")
    if status["self_test"] == "ok":
        yield Finding("ok", "the self-test passes")
    elif status["self_test"] != NOT_YET:
        what = f"the self-test fails: {status['self_test']}"
        yield Finding("fault", what, "journalctl -u handshaked; systemctl restart handshaked")
    silent = sum(not worker["answers"] for worker in status["workers"])
    if silent:
        yield Finding(
            "fault",
            f"{silent} of {len(status['workers'])} workers do not answer",
            "the daemon replaces them; if it does not: systemctl restart handshaked",
        )
    if status["worker_restarts"]:
        what = f"workers have been restarted {status['worker_restarts']} times"
        yield Finding("warning", what, "see why they ended: journalctl -u handshaked -p err")
    for problem in status["problems"]:
        yield Finding(
            "fault", problem, "fix the file; the daemon reads it again by itself, or at once with: handshakectl reload"
        )

    for warning in status["warnings"]:
        yield Finding("warning", warning, "replace the file; the daemon reads it again by itself, or register again")


def _certificates(arguments: argparse.Namespace, status: Result) -> Iterator[Finding]:
    now = time.time()
    for one in status["expiring"]:
        level = "fault" if one["not_after"] <= now else "warning"
        fix = "renew the certificate in its files; the daemon picks up the new files by itself"
        yield Finding(
            level, f"{one['registration']}: the certificate {one['subject']} {expires(one['not_after'], now)}", fix
        )
    page = ask(arguments, "list", {})
    for one in page["registrations"]:
        if any(credential["not_before"] > now for credential in one["credentials"]):
            what = f"{one['name']}: the certificate is not yet valid"
            yield Finding(
                "fault", what, "check the clock with timedatectl; if it is right, wait or replace the certificate"
            )
    if not status["registrations"]:
        yield Finding("note", "there are no registrations", "handshakectl register NAME --cert F --key F --alpn A")


def _bus(status: Result) -> Iterator[Finding]:
    state = status["bus"]
    if state == "off":
        yield Finding("note", "the D-Bus service is off", "handshaked --bus system, if programs need it")
    elif state.startswith("no bus"):
        fix = "systemctl start dbus; if the D-Bus policy is missing: handshakectl install-systemd"
        yield Finding("warning", state, fix)
    else:
        yield Finding("ok", state)


def _kernel() -> Iterator[Finding]:
    if _has_family("handshake"):
        yield Finding("ok", "the kernel can request handshakes (generic netlink family handshake)")
    else:
        yield Finding(
            "note",
            "the kernel has no generic netlink family handshake",
            "use Linux 6.4 or newer with CONFIG_NET_HANDSHAKE",
        )
    for module, what in (("tls", "TLS records in the kernel, for NFS and NVMe"), ("quic", "QUIC in the kernel")):
        if Path(f"/sys/module/{module}").exists():
            yield Finding("ok", f"kernel module {module} is available ({what})")
        else:
            yield Finding("note", f"kernel module {module} is not loaded ({what})", f"modprobe {module}")


def _has_family(name: str) -> bool:
    """Return whether the kernel has the generic netlink family `name` (CTRL_CMD_GETFAMILY)."""
    text = name.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(text), _FAMILY_NAME) + text
    attribute += bytes(-len(attribute) % 4)
    body = struct.pack("=BBH", _GET_FAMILY, 1, 0) + attribute
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC) as sock:
            sock.settimeout(2)
            sock.send(struct.pack("=IHHII", 16 + len(body), _CONTROL, 1, 1, 0) + body)
            _, kind, _, _, _ = struct.unpack_from("=IHHII", sock.recv(8192))
    except OSError:
        return False
    return bool(kind != _NLMSG_ERROR)


def _clock() -> Iterator[Finding]:
    timex = ctypes.create_string_buffer(512)
    state = ctypes.CDLL(None).adjtimex(timex)  # all zero: reads the state, sets nothing
    if state == _TIME_ERROR:
        what = "the clock is not synchronized: certificates may appear expired or not yet valid"
        yield Finding("warning", what, "timedatectl set-ntp true")
    else:
        yield Finding("ok", "the clock is synchronized")


def _permissions(control: Path) -> Iterator[Finding]:
    for path in (control, control.with_name(directories.HANDSHAKE_SOCKET)):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o666 != 0o666:
            yield Finding(
                "warning",
                f"{path}: not every user can connect",
                f"{_socket_advice(path)}; the daemon checks permissions by uid",
            )
    state = directories.state_directory()
    database = state / directories.DATABASE
    try:
        if not database.exists():
            return
        if stat.S_IMODE(database.stat().st_mode) & 0o077 or stat.S_IMODE(state.stat().st_mode) & 0o077:
            advice = f"{advise('chmod 0700', str(state), str(state))}; chmod 0600 {database}"
            yield Finding("fault", f"{database}: other users may read the keys", advice)
        free = os.statvfs(state)
        if free.f_bavail * free.f_frsize < 16 * 1024 * 1024:
            yield Finding("fault", f"{state}: less than 16 MiB free", "free some space: registrations cannot be stored")
        else:
            yield Finding("ok", f"{database} is private to the daemon, and there is free space")
    except PermissionError:
        yield Finding("note", f"{state} can only be read by root", "sudo handshakectl doctor")


def _socket_advice(path: Path) -> str:
    """Return how to let every user connect; systemd sets the mode of its sockets anew at each start."""
    if _SYSTEMD.exists() and path.is_relative_to(_SYSTEM_SOCKETS):
        return "set SocketMode=0666 with systemctl edit handshaked.socket; systemctl restart handshaked.socket"
    return advise("chmod 0666", str(path), str(path))


def _systemctl(verb: str, unit: str) -> str:
    """Return the answer of systemctl to the question `verb` about `unit`; empty if it has none."""
    process = subprocess.run(["systemctl", verb, unit], capture_output=True, text=True, check=False)  # noqa: S603, S607 - systemd's own program
    return process.stdout.strip()


def examine_units(systemctl: Callable[[str, str], str]) -> Iterator[Finding]:
    """Yield findings about the units; `systemctl` answers ``is-enabled`` and ``is-active`` for a unit."""
    for unit in ("handshaked.socket", "handshaked.service"):
        state = systemctl("is-enabled", unit) or "not installed"
        if state in ("enabled", "enabled-runtime", "static", "indirect"):
            yield Finding("ok", f"{unit} is {state}")
        else:
            yield Finding("note", f"{unit} is {state}", f"handshakectl install-systemd; systemctl enable --now {unit}")
    for service, (unit, effect) in _NEEDED_SOCKETS.items():
        if systemctl("is-active", service) == "active" and systemctl("is-active", unit) != "active":
            what = f"{service} runs without {unit}: {effect}"
            yield Finding("warning", what, f"handshakectl install-systemd; systemctl restart {service}")
