"""The D-Bus service on a real dbus-daemon with the shipped policy."""

import asyncio
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dbus_next.aio.message_bus import MessageBus
from dbus_next.message import Message

from handshaked.callers.closing import Closer
from handshaked.control.bus.interface import object_path
from handshaked.control.bus.service import BusService
from handshaked.control.commands import Commands
from handshaked.control.manager import Manager
from handshaked.registry.credentials import load_pem
from handshaked.registry.settings import SETTINGS, TRUST
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import NewRegistration, Source
from handshaked.system.directories import DATABASE
from handshaked.testing.authority import Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.processes import ending
from tests.certificates import revocation_list
from tests.control.bus.calls import MANAGER, OTHER, PROPERTIES, REFUSED, REGISTRATION, USER, register, step
from tests.control.bus.running_bus import RunningBus
from tests.patience import soon
from tests.setting_samples import sample
from tests.tls.x509.chains import ROOT as CRL_ISSUER

pytestmark = pytest.mark.needs("root", "dbus-daemon")


def test_registration_appears_and_disappears_as_object(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
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


def test_key_material_is_never_sent(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
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


def test_outcomes_are_sent_to_subscribers_only(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
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


def test_too_many_objects_for_one_message_are_refused(
    own_bus: RunningBus, public_directory: Path, files: Issued
) -> None:
    """The bus would end the connection, and other calls would wait meanwhile."""
    credential = load_pem(files.certificate.read_bytes(), files.key.read_bytes())
    options = ("--no-kernel", f"--bus={own_bus.address}")
    with RunningDaemon(public_directory, options=options) as daemon:
        store = SqliteRegistryWriter(daemon.state_directory / DATABASE)
    store.register_all(
        NewRegistration(f"r{number}", USER, (f"h{number}.example.com",), (b"h3",), ((credential, Source()),))
        for number in range(5001)
    )
    store.close()
    managed = step("GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")
    with daemon:
        daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
        refused, status = own_bus.call_as(USER, managed, step("Status"))
        [nothing] = own_bus.call_as(OTHER, managed)
    assert refused["error"] == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert status[0]["registrations"] == 5001
    assert list(nothing[0]) == ["/org/handshaked/Handshaked1"]


def test_malformed_calls_get_an_error(bus: RunningBus, daemon: RunningDaemon, files: Issued) -> None:
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


def test_daemon_works_without_a_bus_and_reports_it(public_directory: Path) -> None:
    options = ("--no-kernel", f"--bus=unix:path={public_directory}/nowhere")
    with RunningDaemon(public_directory, options=options) as daemon:
        daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("no bus: "))
        assert daemon.ask("status")["self_test"] == "ok"


def test_daemon_survives_the_end_of_the_bus(own_bus: RunningBus, own_daemon: RunningDaemon) -> None:
    own_bus.stop()
    own_daemon.wait_until(lambda: own_daemon.ask("status")["bus"].startswith("no bus: "))
    assert own_daemon.ask("reload") == {"renewed": [], "errors": []}


@pytest.mark.parametrize(("kind", "value"), [("as", ["x"]), ("a{ss}", {"a": "b"}), ("", None)])
def test_get_all_with_wrong_signature_gets_an_error(
    daemon: RunningDaemon, bus: RunningBus, kind: str, value: Any
) -> None:
    body = {"kinds": [kind], "body": [value]} if kind else {}
    [answer] = bus.call_as(USER, {"interface": PROPERTIES, "member": "GetAll", **body})
    assert answer == {
        "error": "org.freedesktop.DBus.Error.UnknownMethod",
        "text": f"no method GetAll({kind})",
    }


class FaultyCommands(Commands):
    """Commands that all raise an unexpected exception."""

    def __init__(self) -> None:
        pass

    async def __call__(self, *_: object) -> dict[str, Any]:
        raise KeyError("a fault")


async def ask_faulty(bus: BusService, address: str) -> str:
    """Return the name of the error in the reply to a call that raises an unexpected exception."""
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


# dbus-next leaves sockets of closed connections to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_unexpected_exception_in_a_call_gets_an_error(
    own_bus: RunningBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> str:
        store = SqliteRegistryWriter(tmp_path / DATABASE)
        manager = Manager(store, lambda _: asyncio.sleep(0), tmp_path)
        try:
            return await ask_faulty(
                BusService(own_bus.address, FaultyCommands(), manager, lambda: "ok", Closer()), own_bus.address
            )
        finally:
            store.close()

    assert asyncio.run(run()) == "org.freedesktop.DBus.Error.Failed"
    gc.collect()
    assert "a task of the bus ended unexpectedly" in caplog.text
