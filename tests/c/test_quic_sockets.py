"""Handshakes of libhandshaked on stand-ins for QUIC sockets, against stock aioquic."""

import errno
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert
from handshaked.model import Role
from handshaked.testing.authority import Authority
from handshaked.testing.fake_quic_endpoint import FakeQuicEndpoint
from tests.c.programs import NAME, Run, run_server
from tests.conftest import Issue
from tests.patience import PATIENCE
from tests.quic_socket_peers import StockServer, closed_in_handshake, in_thread, left_alone

pytestmark = pytest.mark.needs("cc", "make", "nm")


@pytest.mark.parametrize("poll", [0, 1], ids=["blocking", "polled"])
def test_server_uses_registered_certificate(run: Run, authority: Authority, poll: int) -> None:
    printed, seen = run_server(run, "handshake", f"poll={poll}", root=authority.root)
    assert printed.startswith("0 alert=-1 alpn=h3 registration=web name=quic.example.com ")
    assert seen.data == b"hello"


def test_rejection_has_alert_and_reason(run: Run) -> None:
    printed, seen = run_server(run, "handshake", name="unknown.example.com")
    assert printed.startswith(f"{-errno.EACCES} alert={Alert.UNRECOGNIZED_NAME} ")
    assert "unknown.example.com" in printed
    assert seen.close == closed_in_handshake(Alert.UNRECOGNIZED_NAME)


def run_client(run: Run, server: StockServer, *arguments: str, ticket: bytes = b"") -> tuple[str, bytes, bytes]:
    """Have the program connect; return its output, the echo, and the socket's session ticket."""
    with FakeQuicEndpoint(session_ticket=ticket) as endpoint:
        asking = in_thread(lambda: endpoint.run(endpoint.exchange(server.port, b"hello")))
        connection = endpoint.next_connection()
        with connection.agent:
            descriptor = connection.agent.fileno()
            printed = run("handshake", "client", descriptor, f"name={NAME}", *arguments, descriptor=descriptor)
        return printed, asking.result(PATIENCE)[0], connection.socket.session_ticket


def test_client_waits_for_session_ticket_and_resumes_with_it(run: Run, issue: Issue) -> None:
    leaf = len(issue(NAME).leaf.public_bytes(Encoding.DER))
    with StockServer(issue(NAME), tickets=True) as server:
        printed, echoed, ticket = run_client(run, server, "unauthenticated=1", "tickets=5")
        assert f"name={NAME} suite=1302 resumed=0 early=0 tags= peer={leaf} reason=" in printed
        assert (printed.split()[:3], echoed) == (["0", "alert=-1", "alpn=h3"], b"hello")
        printed, echoed, _ = run_client(run, server, "unauthenticated=1", ticket=ticket)
        assert ("resumed=1" in printed, echoed) == (True, b"hello")


def test_client_verifies_server_by_default(run: Run, issue: Issue) -> None:
    """The system's trust store does not contain the test CA."""
    with StockServer(issue(NAME)) as server:
        printed, echoed, _ = run_client(run, server)
    assert printed.startswith(f"{-errno.EACCES} alert={Alert.UNKNOWN_CA} ")
    assert echoed == b""


def test_client_uses_given_trust_anchors(run: Run, issue: Issue, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "anchor").write_bytes(authority.certificate.public_bytes(Encoding.DER))
    with StockServer(issue(NAME)) as server:
        printed, echoed, _ = run_client(run, server, f"trust={tmp_path / 'anchor'}")
    assert (printed.split()[0], echoed) == ("0", b"hello")


def test_client_resumes_with_given_ticket(run: Run, issue: Issue, tmp_path: Path) -> None:
    with StockServer(issue(NAME), tickets=True) as server:
        _, _, ticket = run_client(run, server, "unauthenticated=1", "tickets=5")
        (tmp_path / "ticket").write_bytes(ticket)
        printed, echoed, _ = run_client(run, server, "unauthenticated=1", f"ticket={tmp_path / 'ticket'}")
    assert ("resumed=1" in printed, echoed) == (True, b"hello")


@pytest.mark.parametrize("poll", [0, 1], ids=["blocking", "polled"])
def test_signals_do_not_interrupt_handshake(run: Run, authority: Authority, poll: int) -> None:
    printed, seen = run_server(run, "handshake", f"poll={poll}", "signals=1", root=authority.root)
    assert (printed.split()[0], seen.data) == ("0", b"hello")


def test_named_registration_is_the_only_one_used(run: Run, authority: Authority) -> None:
    printed, seen = run_server(run, "handshake", "registration=web", root=authority.root)
    assert (printed.split()[3], seen.data) == ("registration=web", b"hello")
    printed, seen = run_server(run, "handshake", "registration=another", root=authority.root)
    assert printed.startswith(f"{-errno.EACCES} ")
    assert seen.data == b""


def test_timeout_option_limits_handshake(run: Run) -> None:
    with FakeQuicEndpoint() as endpoint:
        connection = left_alone(endpoint, Role.SERVER)
        with connection.agent:
            descriptor = connection.agent.fileno()
            printed = run("handshake", "server", descriptor, "timeout=300", descriptor=descriptor)
    assert printed.startswith(f"{-errno.ETIMEDOUT} ")
    assert "0.3 s" in printed
