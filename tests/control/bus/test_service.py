"""The bus as a way in: a real dbus-daemon with the shipped policy, callers of different uids, a polkit of our own."""

import asyncio
import gc
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dbus_next.aio.message_bus import MessageBus
from dbus_next.message import Message

from handshaked.control.bus.interface import introspection, object_path
from handshaked.control.bus.service import Bus
from handshaked.control.commands import Commands
from handshaked.control.manager import Manager
from handshaked.registry.credentials import load_pem
from handshaked.registry.settings import SETTINGS, TRUST
from handshaked.registry.store import NewRegistration, Source, Store
from handshaked.system.directories import DATABASE
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.processes import ending
from tests.authority import revocation_list
from tests.control.bus.running_bus import RunningBus
from tests.expensive_keys import encrypted_key
from tests.patience import PATIENCE, soon
from tests.setting_samples import sample
from tests.tls.x509.chains import ROOT as CRL_ISSUER

pytestmark = pytest.mark.needs("root", "dbus-daemon")

# dbus-daemon serves users that exist only.
USER, OTHER = pwd.getpwnam("bin").pw_uid, pwd.getpwnam("nobody").pw_uid
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
REFUSED = "org.handshaked.Handshaked1.Error.Refused"
PROPERTIES = "org.freedesktop.DBus.Properties"
MANAGER = "org.handshaked.Handshaked1.Manager"
REGISTRATION = "org.handshaked.Handshaked1.Registration"


@pytest.fixture
def bus(public_directory: Path) -> Iterator[RunningBus]:
    with RunningBus(public_directory) as bus:
        yield bus


@pytest.fixture
def daemon(bus: RunningBus, public_directory: Path) -> Iterator[RunningDaemon]:
    """A daemon on the bus: it says so in its status."""
    with RunningDaemon(public_directory, options=("--no-kernel", f"--bus={bus.address}")) as daemon:
        daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
        yield daemon


@pytest.fixture
def files(public_directory: Path) -> Issued:
    """A certificate and a key that a user may read."""
    issued = Authority(public_directory).issue("app.example.com")
    for path in (issued.certificate, issued.key):
        os.chown(path, USER, USER)
    return issued


def register(name: str, issued: Issued, **options: Any) -> dict[str, Any]:
    """The step that registers `issued`."""
    credentials = [{"certificate": str(issued.certificate), "key": str(issued.key)}]
    return {
        "member": "Register",
        "kinds": ["s", "a{sv}", "ah"],
        "body": [name, {"alpns": ["h3"], "credentials": credentials, **options}, [0, 1]],
        "files": [str(issued.certificate), str(issued.key)],
    }


def step(member: str, *arguments: Any, interface: str = MANAGER, **more: Any) -> dict[str, Any]:
    """A step with arguments of plain types."""
    kinds = [{str: "s", int: "x", dict: "a{sv}"}[type(argument)] for argument in arguments]
    return {"member": member, "kinds": kinds, "body": list(arguments), "interface": interface, **more}


def test_root_registers_and_sees_it_appear(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
    match = {
        "member": "AddMatch", "destination": "org.freedesktop.DBus", "path": "/org/freedesktop/DBus",
        "interface": "org.freedesktop.DBus", "kinds": ["s"], "body": ["type='signal'"],
    }  # fmt: skip
    path = object_path("web")
    answers = bus.call_as(
        0,
        match,
        register("web", files, server_names=["app.example.com"]),
        {"wait": "InterfacesAdded"},
        step("Get", REGISTRATION, "ServerNames", interface=PROPERTIES, path=path),
        register("web", files, server_names=["*.example.com"], replace=True),
        {"wait": "PropertiesChanged", "path": path},
        step("Unregister", interface=REGISTRATION, path=path),
        {"wait": "InterfacesRemoved"},
    )
    assert answers[1] == [path, []]
    assert answers[2][0] == path
    assert answers[2][1][REGISTRATION]["Name"] == "web"
    assert answers[3] == [["app.example.com"]]
    assert answers[5][1]["ServerNames"] == ["*.example.com"]
    assert answers[7] == [path, [REGISTRATION]]
    assert daemon.ask("list")["registrations"] == []


def test_every_setting_is_registered_and_shown(
    bus: RunningBus, daemon: RunningDaemon, files: Issued, public_directory: Path
) -> None:
    samples = {setting.name: sample(setting, public_directory) for setting in SETTINGS}
    (public_directory / "client_ca").write_bytes(files.certificate.read_bytes())
    (public_directory / "client_crl").write_bytes(revocation_list(CRL_ISSUER))
    call = register("web", files, **samples)
    call["body"][2] = [0, 1, 2, 3]
    call["files"] += [samples[setting.name] for setting in TRUST]
    everything = step("GetAll", REGISTRATION, interface=PROPERTIES, path=object_path("web"))
    answers = bus.call_as(0, call, everything)
    assert answers[0][0] == object_path("web"), answers
    shown = {name: [str(one) for one in value] if name.startswith("Allow") and isinstance(value, list) else value
             for name, value in answers[1][0].items()}  # fmt: skip
    assert {setting.bus_property: samples[setting.name] for setting in SETTINGS}.items() <= shown.items()


def test_an_ordinary_user_is_refused_by_the_daemon(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
    answers = bus.call_as(USER, register("app", files), step("Reload"), step("Status"))
    assert [answer["error"] for answer in answers[:2]] == [DENIED, DENIED]
    assert "handshakectl grant" in answers[0]["text"]
    assert answers[2][0]["registrations"] == 0


def test_an_ordinary_user_is_refused_by_the_policy(bus: RunningBus, daemon: RunningDaemon) -> None:
    own = {
        "member": "RequestName", "destination": "org.freedesktop.DBus", "path": "/org/freedesktop/DBus",
        "interface": "org.freedesktop.DBus", "kinds": ["s", "u"], "body": ["org.handshaked.Handshaked1", 0],
    }  # fmt: skip
    answers = bus.call_as(USER, step("Grant", {"user": str(USER), "alpns": ["h3"]}), step("NoSuchThing"), own)
    assert [answer["error"] for answer in answers] == [DENIED, DENIED, DENIED]
    assert bus.call_as(0, step("NoSuchThing"))[0]["error"] == "org.freedesktop.DBus.Error.UnknownMethod"


def test_with_a_grant_a_user_registers_and_owns(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
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


def test_key_material_does_not_cross_the_bus(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
    bus.call_as(0, register("web", files))
    answers = bus.call_as(
        0,
        step("GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager"),
        step("GetAll", REGISTRATION, interface=PROPERTIES, path=object_path("web")),
        step("Status"),
    )
    secret = files.key.read_text().splitlines()[1]
    assert secret not in str(answers)
    assert str(files.key) in str(answers)


def test_outcomes_are_told_to_subscribers_alone(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
    bus.call_as(0, register("web", files, server_names=["app.example.com"]))
    client = Path(__file__).with_name("client.py")
    assert client.exists()
    script = [
        step("Subscribe", {"outcome": "failed"}),
        step("Explain", {"alpns": ["h3"]}),
        {"wait": "HandshakeFinished"},
    ]
    with ending(subprocess.Popen([sys.executable, "-c", FAIL_FOREVER, str(daemon.handshake_socket)])) as failing:
        try:
            answers = bus.call_as(0, *script)
        finally:
            failing.terminate()
    record, left_out = answers[2]
    assert record["outcome"] == "failed"
    assert record["status"].startswith("EINVAL")
    assert left_out >= 0


FAIL_FOREVER = """
import sys
from pathlib import Path
from handshaked.model import Role
from handshaked.shim import BlockingClient
from handshaked.wire.messages import Start
with BlockingClient(Path(sys.argv[1])) as client:
    while True:
        client.start(Start(role=Role.CLIENT))
"""


@contextmanager
def fake_polkit(bus: RunningBus, says: str) -> Iterator[subprocess.Popen[str]]:
    """A polkit on the bus; see ``fake_polkit``."""
    command = [sys.executable, str(Path(__file__).with_name("fake_polkit.py")), bus.address, says]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as fake:
        assert fake.stdout is not None
        assert fake.stdout.readline() == "ready\n"
        try:
            yield fake
        finally:
            fake.terminate()


@pytest.mark.parametrize("allows", [True, False])
def test_polkit_may_allow_what_the_rules_deny(
    bus: RunningBus, daemon: RunningDaemon, files: Issued, *, allows: bool
) -> None:
    with fake_polkit(bus, str(allows)) as fake:
        [answer, reload] = bus.call_as(USER, register("app", files), step("Reload"))
        fake.terminate()
        asked = fake.communicate(timeout=PATIENCE)[0]
    assert "org.handshaked.register" in asked
    assert "org.handshaked.reload" in asked
    if allows:
        assert answer == [object_path("app"), []]
        assert reload == [[], []]
        assert daemon.ask("show", name="app")["registration"]["owner"] == USER
    else:
        assert answer["error"] == reload["error"] == DENIED


def test_a_user_whom_polkit_asks_kept_the_others_waiting(bus: RunningBus, daemon: RunningDaemon) -> None:
    with fake_polkit(bus, "Silent"):
        [first, status] = bus.call_as(USER, step("Reload", unanswered=64), step("Status"))
        [others] = bus.call_as(OTHER, step("Status"))
    assert {one["error"] for one in first} == {"org.freedesktop.DBus.Error.LimitsExceeded"}
    assert f"uid {USER} makes too many calls" in first[0]["text"]
    assert status["error"] == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert others[0]["self_test"] == "ok"


def test_all_objects_at_once_were_more_than_the_bus_carries(
    bus: RunningBus, public_directory: Path, files: Issued
) -> None:
    """The bus would have ended the connection; and nobody else was answered meanwhile."""
    credential = load_pem(files.certificate.read_bytes(), files.key.read_bytes())
    options = ("--no-kernel", f"--bus={bus.address}")
    with RunningDaemon(public_directory, options=options) as daemon:
        store = Store(daemon.state_directory / DATABASE)
    store.register_all(
        NewRegistration(f"r{number}", USER, (f"h{number}.example.com",), (b"h3",), ((credential, Source()),))
        for number in range(5001)
    )
    store.close()
    managed = step("GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")
    with daemon:
        daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
        refused, status = bus.call_as(USER, managed, step("Status"))
        [nothing] = bus.call_as(OTHER, managed)
    assert refused["error"] == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert status[0]["registrations"] == 5001
    assert list(nothing[0]) == ["/org/handshaked/Handshaked1"]


def test_malformed_calls_are_answered(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
    outside = register("app", files)
    outside["body"][2] = [0, 7]
    answers = bus.call_as(
        0,
        step("Register", "app"),
        outside,
        step("Explain", {"nonsense": "x"}),
        step("Get", MANAGER, "Nothing", interface=PROPERTIES),
        step("Status", path="/elsewhere"),
        step("Introspect", interface="org.freedesktop.DBus.Introspectable"),
    )
    assert answers[0]["error"] == "org.freedesktop.DBus.Error.UnknownMethod"
    assert answers[1]["error"] == REFUSED
    assert answers[2]["error"] == REFUSED
    assert answers[3]["error"] == "org.freedesktop.DBus.Error.UnknownProperty"
    assert answers[4]["error"] == "org.freedesktop.DBus.Error.UnknownObject"
    assert MANAGER in answers[5][0]


def test_without_a_bus_the_daemon_works_and_says_so(public_directory: Path) -> None:
    options = ("--no-kernel", f"--bus=unix:path={public_directory}/nowhere")
    with RunningDaemon(public_directory, options=options) as daemon:
        daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("no bus: "))
        assert daemon.ask("status")["self_test"] == "ok"


def test_the_bus_may_go(bus: RunningBus, daemon: RunningDaemon) -> None:
    bus.stop()
    daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("no bus: "))
    assert daemon.ask("reload") == {"renewed": [], "errors": []}


def test_the_introspection_that_is_shipped_is_that_of_the_code() -> None:
    shipped = Path(__file__).parents[3] / "systemd/org.handshaked.Handshaked1.xml"
    assert shipped.read_text() == introspection()


@pytest.mark.parametrize(("kind", "value"), [("as", ["x"]), ("a{ss}", {"a": "b"}), ("", None)])
def test_properties_of_what_is_no_interface_got_no_answer(
    daemon: RunningDaemon, bus: RunningBus, kind: str, value: Any
) -> None:
    body = {"kinds": [kind], "body": [value]} if kind else {}
    [answer] = bus.call_as(USER, {"interface": PROPERTIES, "member": "GetAll", **body})
    assert answer == {
        "error": "org.freedesktop.DBus.Error.UnknownMethod",
        "text": f"there is no method GetAll({kind})",
    }


def test_files_that_came_with_signals_stayed_open(
    daemon: RunningDaemon, bus: RunningBus, public_directory: Path
) -> None:
    """A system bus lets everyone send signals to anyone."""
    path = public_directory / "file"
    path.write_bytes(b"")
    path.chmod(0o644)
    forged = {"signal": "NameOwnerChanged", "signature": "h", "body": [0], "files": [str(path)]}
    bus.call_as(USER, forged, {"member": "Grants"})
    open_files = Path(f"/proc/{daemon.pid}/fd")
    daemon.wait_until(lambda: str(path) not in {os.readlink(one) for one in open_files.iterdir() if one.is_symlink()})


def test_a_costly_key_is_refused_before_and_after_a_grant(
    daemon: RunningDaemon, bus: RunningBus, files: Issued
) -> None:
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
    assert (refused["error"], "fewer iterations" in refused["text"]) == (REFUSED, True)


class FaultyCommands(Commands):
    """Commands none of which works."""

    def __init__(self) -> None:
        pass

    async def __call__(self, *_: object) -> dict[str, Any]:
        raise KeyError("a fault")


async def ask_faulty(bus: Bus, address: str) -> str:
    """The name of the error that a call gets which fails as nobody foresaw."""
    client = await MessageBus(bus_address=address).connect()
    there = asyncio.Event()
    client.add_message_handler(lambda message: there.set() if message.member == "NameOwnerChanged" else None)
    name = "org.freedesktop.DBus"
    rule = "member='NameOwnerChanged',arg0='org.handshaked.Handshaked1'"
    await client.call(Message(name, "/org/freedesktop/DBus", name, "AddMatch", signature="s", body=[rule]))
    running = asyncio.create_task(bus.run())
    await soon(there.wait())
    reply = await client.call(Message("org.handshaked.Handshaked1", "/org/handshaked/Handshaked1", MANAGER, "Status"))
    bus.close()
    client.disconnect()
    running.cancel()
    assert reply is not None
    return str(reply.error_name)


# dbus-next leaves the sockets of closed connections to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_a_call_that_met_a_fault_got_no_answer(
    bus: RunningBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> str:
        store = Store(tmp_path / DATABASE)
        manager = Manager(store, lambda _: asyncio.sleep(0), tmp_path)
        try:
            return await ask_faulty(Bus(bus.address, FaultyCommands(), manager, lambda: "ok"), bus.address)
        finally:
            store.close()

    assert asyncio.run(run()) == "org.freedesktop.DBus.Error.Failed"
    gc.collect()
    assert "a task of the bus ended unexpectedly" in caplog.text
