"""Under systemd in the lab: the life cycle of the service, from installation to removal."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

from handshaked.testing.authority import Authority

CERTIFICATES = Path("/srv/certificates")
DROP_IN = Path("/run/systemd/system/handshaked.service.d/watchdog.conf")
SOCKET = Path("/run/handshaked/handshake.sock")
_PATIENCE = 60.0


def run(*command: str, status: int = 0) -> str:
    """Run `command`, which must exit with `status`. Return its output."""
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    said = process.stdout + process.stderr
    if process.returncode != status:
        journal = subprocess.run(
            ["journalctl", "-u", "handshaked", "-n", "40"], capture_output=True, text=True, check=False
        )
        raise SystemExit(f"{command} ended with {process.returncode}:\n{said}\n{journal.stdout}")
    return said


def shown(name: str) -> str:
    """Return a property of the service."""
    return run("systemctl", "show", "--property", name, "--value", "handshaked.service").strip()


def wait_until(what: str, holds: object) -> None:
    """Wait until `holds()`, and print `what`."""
    deadline = time.monotonic() + _PATIENCE
    while not holds():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise SystemExit(f"timeout while waiting for: {what}\n{run('journalctl', '-u', 'handshaked', '-n', '60')}")
        time.sleep(0.1)
    print("seen:", what, flush=True)


def main() -> None:
    """Run all steps."""
    prepare()
    socket_activation()
    registrations()
    reload()
    bus()
    kill()
    watchdog()
    clock()
    metrics()
    stop()
    removal()


def prepare() -> None:
    """Mount file systems with real file ownership, which the lab's root lacks, and install the service."""
    for path in (Path("/var/lib/handshaked"), CERTIFICATES):
        path.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "tmpfs", str(path))
    run("systemctl", "start", "dbus.socket", "systemd-journald.service")
    run("handshakectl", "install-systemd")
    run("systemd-analyze", "verify", "--man=no", "/usr/local/lib/systemd/system/handshaked.service")


def socket_activation() -> None:
    """A connection starts the service."""
    run("systemctl", "start", "handshaked.socket")
    assert shown("ActiveState") == "inactive"
    subprocess.run(("handshakectl", "status"), check=False)  # fails as long as the workers start
    wait_until("a started service", lambda: shown("ActiveState") == "active")
    print(run("handshakectl", "status"))
    assert shown("User") == "handshaked"
    listening = run("ss", "-xlp")
    assert "handshake.sock" in listening
    print("seen: socket activation", flush=True)


def registrations() -> None:
    """A key of root, which the daemon's user cannot read without its capability, is registered and served."""
    authority = Authority(CERTIFICATES)
    authority.issue("www.example.com", file_name="www")
    run(
        "handshakectl", "register", "web", "--alpn=h3", "--server-name=www.example.com",
        f"--cert={CERTIFICATES}/www.pem", f"--key={CERTIFICATES}/www.key",
    )  # fmt: skip
    probe()
    fields = run("journalctl", "-o", "json", "HANDSHAKED_OUTCOME=ok", "HANDSHAKED_REGISTRATION=web")
    assert json.loads(fields.splitlines()[0])["HANDSHAKED_SERVER_NAME"] == "www.example.com"
    print("seen: fields in the journal", flush=True)


def probe() -> None:
    """Complete a handshake with the registration."""
    roots = list(CERTIFICATES.glob("*CA.pem"))
    assert "ok" in run("handshakectl", "test", "web", f"--ca={roots[0]}")


def digest() -> str:
    """Return the digest of the served certificate."""
    page = json.loads(run("handshakectl", "show", "web", "--json"))
    return str(page["registration"]["credentials"][0]["sha256"])


def reload() -> None:
    """A reload uses new files, and keeps the old ones if the new ones are invalid."""
    before = digest()
    key = (CERTIFICATES / "www.key").read_bytes()
    Authority(CERTIFICATES).issue("www.example.com", file_name="www")
    run("systemctl", "reload", "handshaked")
    after = digest()
    assert after != before
    renewed = (CERTIFICATES / "www.key").read_bytes()
    (CERTIFICATES / "www.key").write_bytes(key)
    run("systemctl", "reload", "handshaked", status=1)
    assert digest() == after
    assert "does not match" in run("handshakectl", "status", status=1)
    (CERTIFICATES / "www.key").write_bytes(renewed)
    run("systemctl", "reload", "handshaked")
    run("systemctl", "kill", "--signal=HUP", "--kill-whom=main", "handshaked")
    assert shown("ActiveState") in ("active", "reloading")
    probe()
    print("seen: reload", flush=True)


def bus() -> None:
    """A D-Bus call starts the service, and the bus enforces the policy."""
    run("systemctl", "stop", "handshaked.service")
    call = ("busctl", "call", "org.handshaked.Handshaked1", "/org/handshaked/Handshaked1")
    manager = "org.handshaked.Handshaked1.Manager"
    assert "registrations" in run(*call, manager, "Status")
    wait_until("a service started by the bus", lambda: shown("ActiveState") == "active")
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    assert "Access denied" in run(*nobody, *call, manager, "Grant", "a{sv}", "0", status=1)
    assert "Access denied" in run(*nobody, *call, manager, "Reload", status=1)
    run(*call, manager, "Reload")
    print("seen: the bus", flush=True)


def kill() -> None:
    """After SIGKILL systemd restarts the service, with all registrations."""
    before = int(shown("NRestarts"))
    os.kill(int(shown("MainPID")), signal.SIGKILL)
    wait_until("a restart after SIGKILL", lambda: int(shown("NRestarts")) > before and shown("ActiveState") == "active")
    probe()


def watchdog() -> None:
    """The watchdog replaces a running daemon that cannot complete handshakes."""
    DROP_IN.parent.mkdir(parents=True)
    DROP_IN.write_text("[Service]\nWatchdogSec=6s\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "handshaked.service")
    before = int(shown("NRestarts"))
    aside = SOCKET.with_suffix(".aside")
    SOCKET.rename(aside)
    wait_until("the watchdog's restart", lambda: int(shown("NRestarts")) > before)
    aside.rename(SOCKET)
    wait_until("a ready service", lambda: shown("ActiveState") == "active")
    before = int(shown("NRestarts"))
    os.kill(int(shown("MainPID")), signal.SIGSTOP)
    wait_until("the restart of a stopped daemon", lambda: int(shown("NRestarts")) > before)
    wait_until("a ready service", lambda: shown("ActiveState") == "active")
    probe()
    DROP_IN.unlink()
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "handshaked.service")


def clock() -> None:
    """With a clock that is days behind, the daemon reports the problem, keeps running, and recovers afterwards."""
    pid = shown("MainPID")
    now = time.time()
    later = Authority(CERTIFICATES).issue("later.example.com", file_name="later")
    time.clock_settime(time.CLOCK_REALTIME, now - 3 * 86400)
    arguments = ("handshakectl", "register", "later", "--alpn=h3", "--server-name=later.example.com")
    files = (f"--cert={later.certificate}", f"--key={later.key}")
    assert "is not valid before" in run(*arguments, *files, status=1)
    Authority(CERTIFICATES).issue("www.example.com", file_name="www")
    run("handshakectl", "status")
    time.clock_settime(time.CLOCK_REALTIME, now + 10)
    run(*arguments, *files)
    run("handshakectl", "reload")
    probe()
    assert shown("MainPID") == pid
    print("seen: a clock that was wrong", flush=True)


def metrics() -> None:
    """The metrics socket is enabled later, as the how-to guide describes."""
    run("systemctl", "enable", "handshaked-metrics.socket")
    run("systemctl", "restart", "handshaked.service")
    with urllib.request.urlopen("http://127.0.0.1:9464/metrics") as answer:
        assert b"handshaked_registrations 2.0" in answer.read()
    probe()
    print("seen: metrics", flush=True)


def stop() -> None:
    """The service stops cleanly; its socket stays active and starts it again."""
    run("systemctl", "stop", "handshaked.service")
    assert shown("Result") == "success"
    assert run("systemctl", "is-active", "handshaked.socket").strip() == "active"
    started = ("handshakectl", "status")  # succeeds as soon as all workers answer
    wait_until("stop", lambda: subprocess.run(started, capture_output=True, check=False).returncode == 0)
    wait_until("a service started again", lambda: shown("ActiveState") == "active")


def removal() -> None:
    """Uninstalling removes everything but settings and registrations."""
    run("handshakectl", "uninstall-systemd", "--now")
    assert not list(Path("/etc/systemd/system").rglob("handshaked*"))
    assert not Path("/usr/local/lib/systemd/system/handshaked.service").exists()
    assert not SOCKET.exists()
    assert run("systemctl", "is-active", "handshaked-metrics.socket", status=4).strip() == "inactive"
    assert Path("/var/lib/handshaked/registry.db").exists()
    shutil.rmtree(DROP_IN.parent)
    print("seen: removal", flush=True)


main()
