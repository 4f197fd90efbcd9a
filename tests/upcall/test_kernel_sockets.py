"""The sockets to the kernel: opened in a network namespace, or passed by systemd to one worker after another."""

import contextlib
import os
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from handshaked.upcall.kernel_messages import MAX_MESSAGE, push_get_family
from handshaked.upcall.kernel_sockets import NETLINK_GENERIC, NetlinkLink, Pair, pairs_of
from tests.patience import PATIENCE, run_program
from tests.plugins.needs import need
from tests.run_name import PREFIX

SOL_NETLINK, LIST_MEMBERSHIPS = 270, 9
CONTROLLER_GROUP, ANOTHER_GROUP = 16, 17
NO_FAMILY = push_get_family(1).replace(b"handshake", b"no-family")
"""A command that every kernel answers, with an error."""


@pytest.fixture
def namespace() -> Iterator[str]:
    """Create a network namespace; return its name."""
    name = f"{PREFIX}{os.urandom(4).hex()}"
    need("root", "ip", "network namespaces")
    run_program("ip", "netns", "add", name)
    yield name
    run_program("ip", "netns", "delete", name)


def test_link_to_a_replaced_namespace_is_stale(namespace: str) -> None:
    with contextlib.closing(NetlinkLink(namespace)) as there, contextlib.closing(NetlinkLink()) as here:
        assert (there.stale, here.stale) == (False, False)
        for command in ("delete", "add"):
            run_program("ip", "netns", command, namespace)
            assert (there.stale, here.stale) == (True, False), command
    with pytest.raises(FileNotFoundError):
        NetlinkLink(f"no-{namespace}")


def test_messages_of_other_processes_are_refused() -> None:
    link = NetlinkLink()
    with contextlib.closing(link), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as forger:
        for sock in (link.commands, link.events):
            with pytest.raises(OSError, match=r"refused|permitted"):
                forger.sendto(push_get_family(1), (sock.getsockname()[0], 0))
            with pytest.raises(BlockingIOError):
                sock.recv(4096)


@pytest.fixture
def passed() -> Iterator[Pair]:
    """Return netlink sockets as systemd opens them."""
    with passed_by_systemd() as commands, passed_by_systemd() as events:
        yield commands, events


def passed_by_systemd() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    sock.bind((0, 0))
    return sock


def same_socket(one: socket.socket, other: socket.socket) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())


def groups_of(sock: socket.socket) -> set[int]:
    bits = int.from_bytes(sock.getsockopt(SOL_NETLINK, LIST_MEMBERSHIPS, 4), sys.byteorder)
    return {bit + 1 for bit in range(32) if bits >> bit & 1}


def answer_to(sock: socket.socket, command: bytes) -> bytes:
    sock.send(command)
    assert select.select([sock], [], [], PATIENCE)[0]
    return sock.recv(MAX_MESSAGE)


def test_passed_sockets_serve_the_own_namespace(passed: Pair) -> None:
    with contextlib.closing(NetlinkLink(None, passed)) as link:
        assert same_socket(link.commands, passed[0])
        assert same_socket(link.events, passed[1])
        assert answer_to(link.commands, NO_FAMILY)
    assert passed[0].fileno() >= 0
    assert passed[1].fileno() >= 0


def test_passed_sockets_have_nothing_left_of_the_previous_worker(passed: Pair) -> None:
    with contextlib.closing(NetlinkLink(None, passed)) as link:
        link.join(ANOTHER_GROUP)
        link.commands.send(NO_FAMILY)
        assert select.select([link.commands], [], [], PATIENCE)[0]
    assert groups_of(passed[1]) == {CONTROLLER_GROUP, ANOTHER_GROUP}, "closing a duplicate leaves no group"
    with contextlib.closing(NetlinkLink(None, passed)) as link:
        assert groups_of(link.events) == {CONTROLLER_GROUP}
        with pytest.raises(BlockingIOError):
            link.commands.recv(MAX_MESSAGE)


def test_passed_sockets_are_not_used_for_other_namespaces(passed: Pair, namespace: str) -> None:
    with contextlib.closing(NetlinkLink(namespace, passed)) as link:
        assert not same_socket(link.commands, passed[0])
        assert not groups_of(passed[1])


def test_only_netlink_sockets_make_pairs() -> None:
    with contextlib.ExitStack() as stack:
        unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        first, second, third = (stack.enter_context(passed_by_systemd()) for _ in range(3))
        assert pairs_of([unix]) == []
        assert pairs_of([first, unix, second, third]) == [(first, second)]


def test_namespace_without_interfaces_is_detected(namespace: str) -> None:
    program = "from handshaked.upcall.kernel_sockets import is_isolated; print(is_isolated())"
    inside = run_program("ip", "netns", "exec", namespace, sys.executable, "-c", program)
    assert inside.stdout.strip() == "True"
    run_program("ip", "-n", namespace, "link", "add", "seen", "type", "veth", "peer", "name", "other")
    again = run_program("ip", "netns", "exec", namespace, sys.executable, "-c", program)
    assert again.stdout.strip() == "False"
