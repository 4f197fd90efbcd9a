"""Handshakes of the kernel over TCP with OpenSSL as the peer, and what the consumer finds after them."""

import asyncio
import fcntl
import os
import socket
import ssl
import struct
from collections.abc import Coroutine
from typing import Any

import pytest

from handshaked.configuration.handshaked_toml import SideDefaults
from handshaked.datapath.ktls import Capabilities
from handshaked.errors import Alert, Status
from handshaked.handshakes import kernel_tcp, keyring
from handshaked.model import AuthMode, CipherSuite, Role
from handshaked.testing.authority import Authority, Issued
from tests.conftest import Issue
from tests.datapath.tcp_scene import (
    NAME,
    OpenSsl,
    client_context,
    connected,
    server_context,
)
from tests.lingering import reset_on_close
from tests.peer_keys import key_describes

_SIOCOUTQ = 0x5411


def play(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


@pytest.fixture
def identity(authority: Authority) -> Issued:
    return authority.issue("someone", client=True, file_name="tcp-client")


# Servers


@pytest.mark.parametrize("no_delay", [False, True])
def test_data_right_after_finished_is_left_to_the_kernel(authority: Authority, issue: Issue, no_delay: bool) -> None:
    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, theirs):
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, no_delay)
            blocking = os.get_blocking(ours.fileno())
            client = OpenSsl(client_context(authority), theirs, NAME)
            shaking = asyncio.to_thread(client.shake_hands, b"early bird")
            report, _ = await asyncio.gather(made.submit(ours, Role.SERVER), shaking)
            assert report.status == Status.OK
            assert report.peer_keys == ()
            (outcome,) = made.outcomes
            assert (outcome.registration, outcome.alpn, outcome.server_name) == ("nfs", b"sunrpc", NAME)
            taken = made.offloaded(ours)
            assert (taken.receiving.sequence, taken.sending.sequence) == (0, 0), "no tickets on TCP"
            assert taken.receive(ours) == b"early bird"
            taken.send(ours, b"catches")
            assert await asyncio.to_thread(client.read) == b"catches"
            assert taken.no_delay
            assert bool(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == no_delay, "restored"
            assert os.get_blocking(ours.fileno()) == blocking, "the consumer's flags are left alone"

    play(scenario())


def test_client_without_alpn_selects_a_registration_without(authority: Authority, issue: Issue) -> None:
    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, theirs):
            client = OpenSsl(client_context(authority, alpn=None), theirs, NAME)
            report, _ = await asyncio.gather(made.submit(ours, Role.SERVER), asyncio.to_thread(client.shake_hands))
            assert report.status == Status.OK
            assert (made.outcomes[0].registration, made.outcomes[0].alpn) == ("plain", None)

    play(scenario())


def test_configured_certificate_serves_unregistered_names(authority: Authority, issue: Issue) -> None:
    other = "other.example.com"
    default = issue(other)
    side = SideDefaults(certificate=default.certificate, private_key=default.key)

    async def shaken(name: str, alpn: str | None) -> tuple[int, str | None, bytes | None, Alert | None]:
        async with connected(authority, issue, server=side) as (made, ours, theirs):
            client = OpenSsl(client_context(authority, alpn=alpn), theirs, name)
            submitted, shaking = made.submit(ours, Role.SERVER), asyncio.to_thread(client.shake_hands)
            report, _ = await asyncio.gather(submitted, shaking, return_exceptions=True)
            (outcome,) = made.outcomes
            return report.status, outcome.registration, outcome.alpn, outcome.alert

    async def scenario() -> None:
        assert await shaken(NAME, "sunrpc") == (Status.OK, "nfs", b"sunrpc", None)
        assert await shaken(other, "sunrpc") == (Status.OK, None, b"sunrpc", None)
        assert await shaken(other, None) == (Status.OK, None, None, None)
        for name in (NAME, other):
            assert await shaken(name, "h3") == (Status.REFUSED, None, None, Alert.NO_APPLICATION_PROTOCOL)

    play(scenario())


@pytest.mark.needs("keyrings")
def test_server_gets_a_key_for_its_clients_certificate(authority: Authority, issue: Issue, identity: Issued) -> None:
    async def scenario() -> None:
        side = SideDefaults(trust=authority.root, peers=("allow san=dns:someone tag=friend",))
        async with connected(authority, issue, server=side) as (made, ours, theirs):
            client = OpenSsl(client_context(authority, identity), theirs, NAME)
            report, _ = await asyncio.gather(made.submit(ours, Role.SERVER), asyncio.to_thread(client.shake_hands))
            assert report.status == Status.OK
            (serial,) = report.peer_keys
            assert key_describes(serial, identity.leaf)
            assert made.outcomes[0].tags == ("friend",)

    play(scenario())


def test_client_denied_by_a_rule_is_refused(authority: Authority, issue: Issue, identity: Issued) -> None:
    async def scenario() -> None:
        side = SideDefaults(trust=authority.root, peers=("deny san=dns:someone",))
        async with connected(authority, issue, server=side) as (made, ours, theirs):
            client = OpenSsl(client_context(authority, identity), theirs, NAME)
            report, _ = await asyncio.gather(made.submit(ours, Role.SERVER), asyncio.to_thread(client.shake_hands))
            assert (report.status, report.peer_keys) == (Status.REFUSED, ())
            ours.close()
            with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
                await asyncio.to_thread(client.read)

    play(scenario())


def test_unknown_name_is_refused(authority: Authority, issue: Issue) -> None:
    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, theirs):
            client = OpenSsl(client_context(authority), theirs, "other.example.com")
            shaking = asyncio.to_thread(client.shake_hands)
            report, refusal = await asyncio.gather(made.submit(ours, Role.SERVER), shaking, return_exceptions=True)
            assert report.status == Status.REFUSED
            assert made.outcomes[0].alert is Alert.UNRECOGNIZED_NAME
            assert "UNRECOGNIZED_NAME" in str(refusal)

    play(scenario())


def test_garbage_is_refused_with_an_alert(authority: Authority, issue: Issue) -> None:
    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, theirs):
            theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
            report = await made.submit(ours, Role.SERVER)
            assert report.status == Status.REFUSED
            assert theirs.recv(100) == bytes.fromhex("1503030002020a"), "unexpected_message"
            assert ours.recv(100) == b" HTTP/1.1\r\n\r\n", "no more than a record's header was read"

    play(scenario())


def test_flight_larger_than_the_socket_buffer_is_sent(authority: Authority, issue: Issue) -> None:
    names = [f"{os.urandom(30).hex()}.example.com" for _ in range(400)]
    long = authority.issue(NAME, *names, file_name="tcp-long")

    async def scenario() -> None:
        async with connected(authority, issue, served=long, narrow=True) as (made, ours, theirs):
            client = OpenSsl(client_context(authority), theirs, NAME)
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.do_handshake()
            client.flush()
            submitted = asyncio.ensure_future(made.submit(ours, Role.SERVER))
            async with asyncio.timeout(20):
                while not unsent(ours):  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0)
            assert not submitted.done()
            await asyncio.to_thread(client.shake_hands, b"data")
            assert (await submitted).status == Status.OK
            assert made.offloaded(ours).receive(ours) == b"data"

    play(scenario())


def unsent(sock: socket.socket) -> int:
    """Return the number of bytes that the peer has not acknowledged."""
    return int(struct.unpack("=i", fcntl.ioctl(sock, _SIOCOUTQ, bytes(4)))[0])


# Clients


@pytest.mark.needs("keyrings")
@pytest.mark.parametrize("mode", [AuthMode.UNAUTH, AuthMode.X509])
def test_client_handshake_succeeds(authority: Authority, issue: Issue, identity: Issued, mode: AuthMode) -> None:
    async def scenario() -> None:
        side = SideDefaults(trust=authority.root, certificate=identity.certificate, private_key=identity.key)
        async with connected(authority, issue, client=side) as (made, ours, theirs):
            demanded = authority.root if mode is AuthMode.X509 else None
            server = OpenSsl(server_context(issue(NAME), demanded), theirs)
            asked = {"peer_name": NAME, "auth_mode": mode}
            report, _ = await asyncio.gather(
                made.submit(ours, Role.CLIENT, **asked), asyncio.to_thread(server.shake_hands, b"welcome")
            )
            assert report.status == Status.OK
            assert key_describes(report.peer_keys[0], issue(NAME).leaf)
            assert (made.outcomes[0].alpn, server.tls.selected_alpn_protocol()) == (b"sunrpc", "sunrpc")
            shown = server.tls.getpeercert(binary_form=True)
            assert (shown is not None) == (mode is AuthMode.X509)
            taken = made.offloaded(ours)
            assert taken.receive(ours) == b"welcome"
            taken.send(ours, b"thanks")
            assert await asyncio.to_thread(server.read) == b"thanks"

    play(scenario())


def test_client_without_a_name_verifies_the_address(authority: Authority, issue: Issue) -> None:
    async def scenario() -> None:
        for issued, status in ((issue("127.0.0.1"), Status.OK), (issue(NAME), Status.REFUSED)):
            async with connected(authority, issue) as (made, ours, theirs):
                server = OpenSsl(server_context(issued), theirs)
                submitted = made.submit(ours, Role.CLIENT, auth_mode=AuthMode.UNAUTH)
                shaking = asyncio.to_thread(server.shake_hands)
                report, _ = await asyncio.gather(submitted, shaking, return_exceptions=True)
                assert report.status == status

    play(scenario())


@pytest.mark.parametrize("fault", ["foreign", "expired", "misnamed"])
def test_invalid_server_gets_an_alert(
    authority: Authority, issue: Issue, tmp_path_factory: pytest.TempPathFactory, fault: str
) -> None:
    if fault == "foreign":
        issued = Authority(tmp_path_factory.mktemp("other"), "other CA").issue(NAME)
    elif fault == "expired":
        issued = authority.issue(NAME, valid=(-20, -1), file_name="tcp-expired")
    else:
        issued = issue("elsewhere.example.com")
    alert = {
        "foreign": Alert.UNKNOWN_CA,
        "expired": Alert.CERTIFICATE_EXPIRED,
        "misnamed": Alert.BAD_CERTIFICATE,
    }[fault]

    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, theirs):
            server = OpenSsl(server_context(issued), theirs)
            submitted = made.submit(ours, Role.CLIENT, peer_name=NAME, auth_mode=AuthMode.UNAUTH)
            shaking = asyncio.to_thread(server.shake_hands)
            report, refusal = await asyncio.gather(submitted, shaking, return_exceptions=True)
            assert (report.status, report.peer_keys) == (Status.REFUSED, ())
            assert made.outcomes[0].alert is alert
            assert isinstance(refusal, ssl.SSLError)
            assert alert.name in str(refusal)
            assert made.all_offloaded == {}

    play(scenario())


def test_missing_client_certificate_is_reported_as_no_key(authority: Authority, issue: Issue) -> None:
    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, theirs):
            report = await made.submit(ours, Role.CLIENT, peer_name=NAME, auth_mode=AuthMode.X509)
            assert report.status == Status.NO_KEY
            ours.close()
            assert theirs.recv(1) == b"", "nothing was sent"

    play(scenario())


def test_unusable_keyring_affects_only_requests_that_need_keys(authority: Authority, issue: Issue) -> None:
    async def scenario() -> None:
        nowhere = 0x7FFFFFFF
        async with connected(authority, issue) as (made, ours, theirs):
            server = OpenSsl(server_context(issue(NAME)), theirs)
            submitted = made.submit(ours, Role.CLIENT, peer_name=NAME, auth_mode=AuthMode.UNAUTH, keyring=nowhere)
            report, _ = await asyncio.gather(submitted, asyncio.to_thread(server.shake_hands))
            assert report.status == Status.OK
        async with connected(authority, issue) as (made, ours, _):
            report = await made.submit(ours, Role.CLIENT, auth_mode=AuthMode.PSK, identity_keys=(1,), keyring=nowhere)
            assert report.status == Status.NO_KEY

    play(scenario())


# Both


@pytest.mark.needs("keyrings")
@pytest.mark.parametrize("suite", list(CipherSuite))
def test_psks_work_with_every_cipher_suite(
    authority: Authority, issue: Issue, monkeypatch: pytest.MonkeyPatch, suite: CipherSuite
) -> None:
    digest = "02" if suite is CipherSuite.AES_256_GCM_SHA384 else "01"
    serial = keyring.add_key("user", f"NVMe0R{digest} {suite.name}", b"p" * 48, keyring.PROCESS_KEYRING)
    monkeypatch.setattr(kernel_tcp, "capabilities", lambda: Capabilities((suite,), limits=False))

    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, theirs):
            asked = {"auth_mode": AuthMode.PSK, "identity_keys": (serial,), "timeout": 10_000}
            reports = await asyncio.gather(
                made.submit(ours, Role.CLIENT, **asked), made.submit(theirs, Role.SERVER, **asked)
            )
            assert [report.status for report in reports] == [0, 0]
            assert [report.peer_keys for report in reports] == [(serial,)] * 2
            client, server = made.offloaded(ours), made.offloaded(theirs)
            assert client.sending.cipher_suite is server.sending.cipher_suite is suite
            client.send(ours, b"command")
            assert server.receive(theirs) == b"command"
            server.send(theirs, b"answer")
            assert client.receive(ours) == b"answer"

    play(scenario())


@pytest.mark.parametrize("role", list(Role))
def test_silent_peer_is_a_timeout(authority: Authority, issue: Issue, role: Role) -> None:
    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, _):
            report = await made.submit(ours, role, timeout=600, peer_name=NAME, auth_mode=AuthMode.UNAUTH)
            assert report.status == Status.TIMED_OUT
            assert [outcome.status for outcome in made.outcomes] == [Status.TIMED_OUT]

    play(scenario())


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("reset", [False, True])
def test_closing_peer_lets_the_consumer_retry(authority: Authority, issue: Issue, role: Role, reset: bool) -> None:
    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, theirs):
            if reset:
                reset_on_close(theirs)
            theirs.close()
            report = await made.submit(ours, role, peer_name=NAME, auth_mode=AuthMode.UNAUTH)
            assert report.status == Status.TIMED_OUT
            assert made.outcomes[0].status == Status.PEER_GONE

    play(scenario())


def test_closing_source_ends_the_handshake(authority: Authority, issue: Issue) -> None:
    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, _):
            submitted = asyncio.ensure_future(made.submit(ours, Role.SERVER))
            async with asyncio.timeout(20):
                while not made.source.status["in_flight"]:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0)
            made.source.close()
            assert (await submitted).status == Status.TIMED_OUT
            assert made.outcomes[0].status == Status.SHUTTING_DOWN

    play(scenario())
