"""Callers without any right, and the daemon that they must not slow, fill or disconnect."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from handshaked.control.bus.marshalling import Variant
from handshaked.control.bus.messages import Kind, Received
from handshaked.control.bus.subscribers import MAX_SUBSCRIBERS_PER_USER
from handshaked.errors import MAX_REASON
from handshaked.testing.daemon import RunningDaemon
from tests.control.bus.blocking_client import BUS, NAME, BlockingBus
from tests.control.bus.calls import DENIED, REFUSED, USER
from tests.control.bus.running_bus import RunningBus
from tests.lingering import hand_over, lingering_pair

pytestmark = pytest.mark.needs("root", "dbus-daemon")

LIMITS_EXCEEDED = "org.freedesktop.DBus.Error.LimitsExceeded"
CONTROL_CHARACTERS = "\x01" * 9_000_000


@pytest.fixture
def bus(own_bus: RunningBus) -> RunningBus:
    """A bus whose connections are those of one test."""
    return own_bus


@pytest.fixture
def daemon(own_daemon: RunningDaemon) -> RunningDaemon:
    """A daemon whose memory, threads and subscribers are those of one test."""
    return own_daemon


@pytest.fixture
def stranger(bus: RunningBus, daemon: RunningDaemon) -> Iterator[BlockingBus]:
    """A connection of USER, who has no right."""
    with as_user(bus) as client:
        yield client


@pytest.fixture
def root(bus: RunningBus, daemon: RunningDaemon) -> Iterator[BlockingBus]:
    with BlockingBus(bus.address) as client:
        yield client


def as_user(bus: RunningBus, uid: int = USER) -> BlockingBus:
    """Return a connection of `uid`: the bus looks at the user who connects."""
    os.seteuid(uid)
    try:
        return BlockingBus(bus.address)
    finally:
        os.seteuid(0)


def owner(client: BlockingBus) -> str:
    """Return the unique name of the daemon, which changes when it connects again."""
    [name] = client.call("GetNameOwner", "s", NAME, destination=BUS, interface=BUS, results="s")
    return str(name)


def text(error: Received) -> str:
    return str(error.values("s", 1)[0])


def peak_memory(pid: int) -> int:
    """Return the most memory in bytes that the process `pid` has ever taken."""
    [line] = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


@pytest.mark.parametrize("interface", ["org.freedesktop.DBus.Introspectable", "org.freedesktop.DBus.Properties"])
def test_long_call_is_refused_and_never_in_memory(
    stranger: BlockingBus, root: BlockingBus, daemon: RunningDaemon, interface: str
) -> None:
    assert root.call("Status", results="a{sv}")
    before, connection = peak_memory(daemon.pid), owner(root)
    member = interface.rpartition(".")[2].replace("Introspectable", "Introspect").replace("Properties", "GetAll")
    refused = stranger.ask(member, "as", ["x" * 30] * 800_000, interface=interface)
    assert refused.error_name == LIMITS_EXCEEDED
    assert text(refused) == f"the arguments of {member} are too long"
    assert peak_memory(daemon.pid) - before < 8 << 20
    assert owner(root) == connection


def test_error_repeats_little_of_what_it_refuses(stranger: BlockingBus, root: BlockingBus) -> None:
    connection = owner(root)
    for size, error in ((9_000_000, LIMITS_EXCEEDED), (12_000, REFUSED)):
        refused = stranger.ask("Recent", "a{sv}", {CONTROL_CHARACTERS[:size]: Variant("s", "x")})
        assert refused.error_name == error
        assert len(text(refused)) < MAX_REASON
    refused = stranger.ask("Recent", "a{sv}", {"outcome": Variant("s", CONTROL_CHARACTERS[:12_000])})
    assert refused.error_name == REFUSED
    for member, path in (("Status", "/x" * 3000), ("Unregister", "/org/handshaked/Handshaked1")):
        refused = stranger.ask(member, "s", "y" * 12_000, path=path)
        assert refused.kind == Kind.ERROR
        assert len(text(refused).encode()) <= MAX_REASON
    assert owner(root) == connection


def test_call_with_a_path_of_megabytes_is_dropped(stranger: BlockingBus, root: BlockingBus) -> None:
    connection = owner(root)
    stranger.send("Status", path="/x" * 1_000_000)
    assert stranger.call("Status", results="a{sv}")
    assert owner(root) == connection


def test_too_many_values_are_refused(stranger: BlockingBus) -> None:
    refused = stranger.ask("Explain", "a{sv}", {"alpns": Variant("as", [""] * 2000)})
    assert refused.error_name == REFUSED
    assert text(refused) == "too many values in one D-Bus message"


def test_bus_delivers_neither_signals_nor_files_to_the_daemon(stranger: BlockingBus, root: BlockingBus) -> None:
    """Unless Register is called, which takes files."""
    for client in (stranger, root):
        assert client.ask("NameOwnerChanged", interface=BUS, kind=Kind.SIGNAL).error_name == DENIED
    with Path("/dev/null").open() as file:
        assert stranger.ask("Status", descriptors=(file.fileno(),)).error_name == DENIED
        refused = root.ask("Status", descriptors=(file.fileno(),))
        assert refused.error_name == "org.freedesktop.DBus.Error.InvalidArgs"
        assert text(refused) == "Status takes no files"


def test_lingering_files_of_refused_calls_cost_nobody_anything(
    stranger: BlockingBus, root: BlockingBus, daemon: RunningDaemon
) -> None:
    """Nobody reads what these sockets have sent, and each of them would linger for two minutes."""
    pass_lingering_sockets(
        daemon,
        root,
        lambda file: stranger.send("Register", "sa{sv}ah", "x", {}, [0], descriptors=(file,)),
    )
    assert stranger.call("Status", results="a{sv}")


def test_files_are_closed_where_a_bus_delivers_signals(public_directory: Path) -> None:
    """A session bus has no policy."""
    with RunningBus(public_directory, policy=False) as bus:
        options = ("--no-kernel", f"--bus={bus.address}")
        with RunningDaemon(public_directory, options=options) as daemon, BlockingBus(bus.address) as client:
            daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
            before = open_files(daemon.pid)
            pass_lingering_sockets(
                daemon,
                client,
                lambda file: client.send("Signal", "h", 0, kind=Kind.SIGNAL, descriptors=(file,)),
            )
            daemon.wait_until(lambda: open_files(daemon.pid) <= before + 4)


def pass_lingering_sockets(daemon: RunningDaemon, root: BlockingBus, send: Callable[[int], object]) -> None:
    """Pass more sockets than the daemon has threads and calls for one user; `root` must not wait."""
    with ExitStack() as stack:
        for _ in range(24):
            sender, _ = stack.enter_context(lingering_pair())
            hand_over(sender, daemon.pid, partial(send, sender.fileno()))
            assert root.call("Status", results="a{sv}")
        threads = list(Path(f"/proc/{daemon.pid}/task").iterdir())
        assert len(threads) < 20


def open_files(pid: int) -> int:
    """Return the number of open descriptors of the process `pid`."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_one_user_does_not_keep_root_from_subscribing(bus: RunningBus, root: BlockingBus) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(as_user(bus)) for _ in range(40)]
        answers = [client.ask("Subscribe", "a{sv}", {}) for client in clients]
        assert sum(answer.kind == Kind.METHOD_RETURN for answer in answers) == MAX_SUBSCRIBERS_PER_USER
        assert root.call("Subscribe", "a{sv}", {}, results="") == []


def test_subscribers_that_leave_at_once_take_no_places(
    bus: RunningBus, daemon: RunningDaemon, root: BlockingBus
) -> None:
    for _ in range(10):
        clients = [as_user(bus) for _ in range(20)]
        for client in clients:
            client.send("Subscribe", "a{sv}", {})
            client.close()
    with ExitStack() as stack:
        clients = [stack.enter_context(as_user(bus)) for _ in range(MAX_SUBSCRIBERS_PER_USER)]
        daemon.wait_until(lambda: clients[0].ask("Subscribe", "a{sv}", {}).kind == Kind.METHOD_RETURN)
        for client in clients[1:]:
            assert client.call("Subscribe", "a{sv}", {}, results="") == []


def test_calls_of_many_names_do_not_refuse_those_of_root(bus: RunningBus, root: BlockingBus) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(as_user(bus)) for _ in range(40)]
        for client in clients:
            for _ in range(40):
                client.send("Status")
        fresh = stack.enter_context(BlockingBus(bus.address))
        assert fresh.call("Status", results="a{sv}")
        assert root.call("Status", results="a{sv}")
