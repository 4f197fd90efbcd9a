"""Attacks over D-Bus by a user without any right, and what they cost an honest caller of another user."""

import os
import pwd
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from handshaked.control.bus.calls import MAX_CALLS_PER_USER
from handshaked.control.bus.marshalling import Variant
from handshaked.control.bus.messages import Kind, Message
from handshaked.system.memory import resident_memory
from handshaked.testing.daemon import RunningDaemon
from tests.control.bus.blocking_client import MANAGER, NAME, PATH, BlockingBus
from tests.control.bus.calls import OTHER, USER
from tests.control.bus.running_bus import RunningBus
from tests.hostile.honest import Attack, Honest, compare, environment
from tests.lingering import lingering_pair
from tests.patience import PATIENCE
from tests.plugins.needs import public_python

pytestmark = [
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.needs("root", "dbus-daemon", "public python"),
    pytest.mark.timeout(300),
]

LONG = 30 * 1024 * 1024
STRING = struct.pack("<I", 3) + b"xxx\0"
MAX_GROWTH = 8 * 1024 * 1024


@pytest.fixture
def bus(public_directory: Path) -> Iterator[RunningBus]:
    """Run a bus with the shipped policy."""
    with RunningBus(public_directory) as running:
        yield running


@pytest.fixture
def bus_daemon(public_directory: Path, bus: RunningBus) -> Iterator[RunningDaemon]:
    """Run a daemon of an ordinary user on `bus`; dbus-daemon serves only users that exist."""
    user = pwd.getpwnam("daemon").pw_uid
    os.chown(public_directory, user, user)
    with RunningDaemon(
        public_directory,
        user=user,
        launcher=("env", f"PYTHONPATH={environment()['PYTHONPATH']}"),
        python=str(public_python()),
        options=("--no-kernel", f"--bus={bus.address}"),
    ) as daemon:
        daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
        yield daemon


def connect(directory: Path) -> BlockingBus:
    return BlockingBus(f"unix:path={directory}/bus")


def honest_call(directory: Path, _: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that asks for the daemon's status over D-Bus."""
    bus = connect(directory)
    return lambda: bus.call("Status", results="a{sv}")


def honest_subscription(directory: Path, _: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that subscribes and unsubscribes."""
    bus = connect(directory)

    def operation() -> None:
        bus.call("Subscribe", "a{sv}", {}, results="")
        bus.call("Unsubscribe", results="")

    return operation


def pass_lingering_sockets(directory: Path, underway: Callable[[], None]) -> None:
    """Register 300 times with a socket whose close waits for two minutes."""
    with connect(directory) as bus, ExitStack() as stack:
        for number in range(300):
            sender, _ = stack.enter_context(lingering_pair())
            bus.ask("Register", "sa{sv}ah", "x", {}, [0], descriptors=(sender.fileno(),))
            sender.setblocking(False)
            os.close(sender.detach())
            if number == 32:
                underway()
        threading.Event().wait(2 * PATIENCE)


def name_long_keys(directory: Path, underway: Callable[[], None]) -> None:
    """Name a key of 9 MB of control characters, which an error would repeat four times longer."""
    key = "\x01" * 9_000_000
    pause = threading.Event()
    with connect(directory) as bus:
        underway()
        while not pause.wait(0.5):
            bus.ask("Recent", "a{sv}", {key: Variant("s", "x")})


def introspect_with_long_bodies(directory: Path, underway: Callable[[], None]) -> None:
    """Call Introspect with four million strings."""
    call = Message(Kind.METHOD_CALL, NAME, PATH, "org.freedesktop.DBus.Introspectable", "Introspect", signature="as",
                   body=[[]])  # fmt: skip
    content = bytearray(call.marshal(2))
    body = struct.pack("<I", LONG) + STRING * (LONG // len(STRING))
    struct.pack_into("<I", content, 4, len(body))
    content[-4:] = body
    with connect(directory) as bus:
        bus.send_marshalled(content)  # receiving it takes dbus-daemon's time
        underway()
        while bus.receive().reply_serial != 2:
            pass
        threading.Event().wait(2 * PATIENCE)


def subscribe_and_leave(directory: Path, underway: Callable[[], None]) -> None:
    """Hold as many subscriptions as possible, and subscribe with names that leave at once."""
    pause = threading.Event()
    with ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(connect(directory)).send("Subscribe", "a{sv}", {})
        underway()
        while not pause.wait(0.1):
            for _ in range(10):
                with connect(directory) as bus:
                    bus.send("Subscribe", "a{sv}", {})


def send_many_signatures(directory: Path, underway: Callable[[], None]) -> None:
    """Send signals and variants of ever new types."""
    with connect(directory) as bus:
        number = 0
        while True:
            signature = "".join("ynqiuxtd"[number >> 3 * place & 7] for place in range(6)) * 40
            bus.ask("Signal", signature, *[0] * 240, kind=Kind.SIGNAL, interface=MANAGER)
            bus.ask("Explain", "a{sv}", {"user": Variant(f"({signature})", [0] * 240)})
            number += 1
            if number == 10:
                underway()


def call_without_end(directory: Path, underway: Callable[[], None]) -> None:
    """Keep as many valid calls in progress as a user may have."""
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(directory)) for _ in range(MAX_CALLS_PER_USER // 2)]
        for bus in connections:
            bus.send("Status")
            bus.send("Status")
        underway()
        while True:
            for bus in connections:
                bus.receive()
                bus.send("Status")


@pytest.mark.parametrize(
    ("attack", "honest"),
    [
        (pass_lingering_sockets, honest_call),
        (name_long_keys, honest_call),
        (introspect_with_long_bodies, honest_call),
        (subscribe_and_leave, honest_subscription),
        (send_many_signatures, honest_call),
        (call_without_end, honest_call),
    ],
)
def test_attack_over_the_bus_costs_an_honest_caller_little_and_no_memory(
    bus: RunningBus, bus_daemon: RunningDaemon, attack: Attack, honest: Honest
) -> None:
    before = resident_memory(bus_daemon.pid)
    users = {"honest_user": USER, "attacker": OTHER}
    compare(bus_daemon.directory, honest, attack, services=[bus.pid], **users).check()
    assert resident_memory(bus_daemon.pid) - before < MAX_GROWTH
