"""Authorization of calls: the bus policy, the manager's rules, and polkit."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handshaked.control.bus.interface import object_path
from handshaked.testing.authority import Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.processes import ending
from tests.control.bus.calls import DENIED, OTHER, REFUSED, REGISTRATION, USER, register, step
from tests.control.bus.running_bus import RunningBus
from tests.expensive_keys import encrypted_key
from tests.patience import PATIENCE

pytestmark = pytest.mark.needs("root", "dbus-daemon")


def test_ordinary_user_is_denied_by_the_daemon(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
    answers = bus.call_as(USER, register("app", files), step("Reload"), step("Status"))
    assert [answer["error"] for answer in answers[:2]] == [DENIED, DENIED]
    assert "handshakectl grant" in answers[0]["text"]
    assert answers[2][0]["registrations"] == 0


def test_ordinary_user_is_denied_by_the_bus_policy(bus: RunningBus, daemon: RunningDaemon) -> None:
    own = {
        "member": "RequestName", "destination": "org.freedesktop.DBus", "path": "/org/freedesktop/DBus",
        "interface": "org.freedesktop.DBus", "kinds": ["s", "u"], "body": ["org.handshaked.Handshaked1", 0],
    }  # fmt: skip
    answers = bus.call_as(USER, step("Grant", {"user": str(USER), "alpns": ["h3"]}), step("NoSuchThing"), own)
    assert [answer["error"] for answer in answers] == [DENIED, DENIED, DENIED]
    assert bus.call_as(0, step("NoSuchThing"))[0]["error"] == "org.freedesktop.DBus.Error.UnknownMethod"


def test_user_with_a_grant_registers_and_owns(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
    [[grant]] = bus.call_as(0, step("Grant", {"user": str(USER), "alpns": ["h3"], "server_names": ["*.example.com"]}))
    path = object_path("app")
    answers = bus.call_as(
        USER,
        step("Grants"),
        register("app", files, server_names=["app.example.com"]),
        register("more", files, server_names=["app.example.org"]),
        register("kernel", files, server_names=["b.example.com"], allow_kernel=True),
    )
    assert answers[0][0][0]["id"] == grant
    assert answers[1] == [path, []]
    assert "no grant for server name app.example.org" in answers[2]["text"]
    assert answers[3]["error"] == DENIED
    assert daemon.ask("show", name="app")["registration"]["owner"] == USER
    # Another user neither sees nor removes it.
    managed = step("GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")
    others = bus.call_as(
        OTHER, step("Unregister", "app"), managed, step("Unregister", interface=REGISTRATION, path=path)
    )
    assert others[0]["error"] == DENIED
    assert path not in others[1][0]
    assert others[2]["error"] == "org.freedesktop.DBus.Error.UnknownObject"
    mine = bus.call_as(USER, managed, step("Unregister", interface=REGISTRATION, path=path))
    assert mine[0][0][path][REGISTRATION]["Owner"] == USER
    assert mine[1] == []


@contextmanager
def fake_polkit(bus: RunningBus, says: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``fake_polkit.py`` on the bus."""
    command = [sys.executable, str(Path(__file__).with_name("fake_polkit.py")), bus.address, says]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as fake:
        assert fake.stdout is not None
        assert fake.stdout.readline() == "ready\n"
        try:
            yield fake
        finally:
            fake.terminate()


@pytest.mark.parametrize("allows", [True, False])
def test_polkit_can_allow_what_the_manager_denies(
    bus: RunningBus, daemon: RunningDaemon, files: Issued, *, allows: bool
) -> None:
    with fake_polkit(bus, str(allows)) as fake:
        call = register("app", files, server_names=["app.example.com"], alpns=["h3", "smb"])
        [answer, reload] = bus.call_as(USER, call, step("Reload"))
        fake.terminate()
        asked = fake.communicate(timeout=PATIENCE)[0]
    details = {"name": "app", "server_names": "app.example.com", "alpns": "h3, smb"}
    assert asked.splitlines()[-2:] == [f"org.handshaked.register {details}", "org.handshaked.reload {}"]
    if allows:
        assert answer == [object_path("app"), []]
        assert reload == [[], []]
        assert daemon.ask("show", name="app")["registration"]["owner"] == USER
    else:
        assert answer["error"] == reload["error"] == DENIED


def test_calls_waiting_for_polkit_do_not_block_other_users(bus: RunningBus, daemon: RunningDaemon) -> None:
    with fake_polkit(bus, "Silent"):
        [first, status] = bus.call_as(USER, step("Reload", unanswered=64), step("Status"))
        [others] = bus.call_as(OTHER, step("Status"))
    assert {one["error"] for one in first} == {"org.freedesktop.DBus.Error.LimitsExceeded"}
    assert "too many calls" in first[0]["text"]
    assert status["error"] == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert others[0]["self_test"] == "ok"


def test_costly_key_is_refused_before_and_after_a_grant(daemon: RunningDaemon, bus: RunningBus, files: Issued) -> None:
    files.key.write_bytes(encrypted_key((1 << 31) - 1))
    passphrase = files.key.with_name("passphrase")
    passphrase.write_bytes(b"x")
    os.chown(passphrase, USER, USER)
    passphrase.chmod(0o600)
    asked = register("app", files, server_names=["app.example.com"])
    asked["body"][1]["credentials"][0]["passphrase"] = str(passphrase)
    asked["body"][2].append(2)
    asked["files"].append(str(passphrase))
    [denied] = bus.call_as(USER, asked)
    assert denied["error"] == DENIED
    daemon.ask("grant", user=str(USER), alpns=["h3"], server_names=["app.example.com"])
    [refused] = bus.call_as(USER, asked)
    assert refused["error"] == REFUSED
    # On a busy machine the time that it may wait ends before the processor time that it may take.
    assert any(reason in refused["text"] for reason in ("fewer iterations", "could not be read in time"))
