"""Interoperability with gnutls-cli and gnutls-serv."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from handshaked.errors import Alert
from handshaked.events import HandshakeFailed, SessionTicket
from handshaked.model import CipherSuite, ClientAuth, Group
from handshaked.testing.ports import free_port
from handshaked.tls.parameters import ClientParameters, ServerParameters, Tickets
from handshaked.tls.tickets import RotatingTicketKeys
from handshaked.tls.x509.trust import TrustStore
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier
from tests.certificates import DAY, Issued, authority, client, issue, root, server
from tests.interop.peers import GNUTLS, Files, files, program, run
from tests.interop.tcp import TlsServer, converse, credential_of, serving

pytestmark = GNUTLS

NOW = datetime.now(UTC)
DATES = {"begin": NOW - DAY, "end": NOW + DAY}
ROOT = root(**DATES)
MIDDLE = issue("intermediate", ROOT, authority(), number=101, **DATES)
KEYS = ("p256", "p384", "p521", "ed25519", "ed448", "rsa2048")
SUITES = {
    "AES-128-GCM": CipherSuite.AES_128_GCM_SHA256,
    "AES-256-GCM": CipherSuite.AES_256_GCM_SHA384,
    "CHACHA20-POLY1305": CipherSuite.CHACHA20_POLY1305_SHA256,
    "AES-128-CCM": CipherSuite.AES_128_CCM_SHA256,
}
GROUPS = {
    "X25519": Group.X25519,
    "SECP256R1": Group.SECP256R1,
    "SECP384R1": Group.SECP384R1,
    "SECP521R1": Group.SECP521R1,
}
TLS13 = "NORMAL:-VERS-ALL:+VERS-TLS1.3"


def leaf(kind: str = "p256") -> Issued:
    return server(MIDDLE, kind=kind, san="a.example 127.0.0.1", **DATES)


def server_parameters(kind: str = "p256", **changes) -> ServerParameters:
    return ServerParameters(credential_of(leaf(kind), MIDDLE), None, None, **changes)


def client_parameters(**changes) -> ClientParameters:
    verifier = ServerChainVerifier(TrustStore([ROOT.certificate]))
    return ClientParameters(
        **{
            "alpns": (),
            "server_name": "a.example",
            "transport_parameters": None,
            "verifier": verifier,
            **changes,
        }
    )


@pytest.fixture
def trusted(tmp_path) -> Files:
    return files(tmp_path, ROOT, stem="root")


def gnutls_cli(tls_server: TlsServer, trusted: Files, *options: object, priority: str = TLS13) -> str:
    """Run gnutls-cli and return its output; it ends when the server closes the connection after its answer."""
    done = run(
        "gnutls-cli", "--port", tls_server.port, "--sni-hostname", "a.example", "--verify-hostname", "a.example",
        "--x509cafile", trusted.chain, "--priority", priority, *options, "127.0.0.1",
        text=b"GET / HTTP/1.0\r\n\r\n",
    )  # fmt: skip
    return done.stdout.decode("ascii", "replace")


class TestServer:
    """Our server with gnutls-cli."""

    @pytest.mark.parametrize("kind", KEYS)
    def test_each_key_type_is_trusted(self, trusted, kind):
        with serving(server_parameters(kind)) as tls_server:
            said = gnutls_cli(tls_server, trusted)
            assert "The certificate is trusted." in said
            assert "hello" in said
            assert tls_server.served().complete.server_name == "a.example"

    @pytest.mark.parametrize("suite", SUITES)
    def test_each_cipher_suite_is_negotiated(self, trusted, suite):
        with serving(server_parameters(cipher_suites=(SUITES[suite],))) as tls_server:
            assert "hello" in gnutls_cli(tls_server, trusted, priority=f"{TLS13}:-CIPHER-ALL:+{suite}")
            assert tls_server.served().complete.cipher_suite is SUITES[suite]

    @pytest.mark.parametrize("group", GROUPS)
    def test_each_group_works_with_and_without_retry(self, trusted, group):
        with serving(server_parameters(groups=(GROUPS[group],))) as tls_server:
            assert "hello" in gnutls_cli(tls_server, trusted, priority=f"{TLS13}:-GROUP-ALL:+GROUP-{group}")
            assert "hello" in gnutls_cli(tls_server, trusted, "--single-key-share")

    def test_record_size_limit_of_the_client_is_obeyed(self, trusted):
        """Each side keeps to the limit of the other."""
        with serving(server_parameters(record_size_limit=600)) as tls_server:
            assert "hello" in gnutls_cli(tls_server, trusted, "--recordsize", 512)
            assert tls_server.served().max_payload == 512

    def test_session_is_resumed(self, trusted):
        keys = RotatingTicketKeys([(NOW.timestamp(), bytes(32))])
        with serving(server_parameters(tickets=Tickets(keys))) as tls_server:
            assert "*** This is a resumed session" in gnutls_cli(tls_server, trusted, "--resume", "--waitresumption")
            assert [tls_server.served().complete.resumed for _ in range(2)] == [False, True]

    def test_handshake_fails_if_the_client_distrusts_the_server(self, trusted, tmp_path):
        with serving(server_parameters()) as tls_server:
            gnutls_cli(tls_server, files(tmp_path, root("other", number=9, **DATES), stem="other"))
            assert any(isinstance(event, HandshakeFailed) for event in tls_server.served().events)


class TestClientCertificates:
    """Our server asks gnutls-cli for a certificate."""

    def serve(self, trusted, tmp_path, mode: ClientAuth, *chain: Issued):
        options = []
        if chain:
            made = files(tmp_path, *chain, stem="client")
            options = ["--x509certfile", made.chain, "--x509keyfile", made.key]
        verifier = ClientChainVerifier(TrustStore([ROOT.certificate]))
        with serving(server_parameters(client_auth=mode, client_verifier=verifier)) as tls_server:
            said = gnutls_cli(tls_server, trusted, *options)
            return tls_server.served(), said

    @pytest.mark.parametrize("kind", KEYS)
    def test_valid_client_certificate_is_accepted(self, trusted, tmp_path, kind):
        chain = client(MIDDLE, kind=kind, **DATES), MIDDLE
        served, said = self.serve(trusted, tmp_path, ClientAuth.REQUIRE, *chain)
        assert "hello" in said
        assert served.complete.peer_certificates == tuple(each.der for each in chain)

    def test_missing_client_certificate_is_refused_only_if_required(self, trusted, tmp_path):
        served, said = self.serve(trusted, tmp_path, ClientAuth.REQUEST)
        assert "hello" in said
        assert served.complete.peer_certificates == ()
        served, said = self.serve(trusted, tmp_path, ClientAuth.REQUIRE)
        assert served.failed.alert is Alert.CERTIFICATE_REQUIRED
        assert "Certificate is required" in said

    @pytest.mark.parametrize(
        ("chain", "alert"),
        [
            ([client(ROOT, begin=NOW - 2 * DAY, end=NOW - DAY)], Alert.CERTIFICATE_EXPIRED),
            ([client(root("stranger", number=9, **DATES), **DATES)], Alert.UNKNOWN_CA),
            ([leaf(), MIDDLE], Alert.UNSUPPORTED_CERTIFICATE),
        ],
    )
    def test_invalid_client_certificate_is_refused(self, trusted, tmp_path, chain, alert):
        served, said = self.serve(trusted, tmp_path, ClientAuth.REQUIRE, *chain)
        assert served.failed.alert is alert
        assert f"Received alert [{alert}]" in said


class TestClient:
    """Our client with gnutls-serv, which echoes."""

    def converse(self, tmp_path, kind: str = "p256", *options: object, priority: str = TLS13, times=1, **changes):
        made, port = files(tmp_path, leaf(kind), MIDDLE), free_port()
        with program(
            "gnutls-serv", "--port", port, "--echo", "--x509certfile", made.chain, "--x509keyfile", made.key,
            "--priority", priority, *options,
            port=port,
        ):  # fmt: skip
            results = []
            for _ in range(times):
                results.append(converse(port, client_parameters(**changes), b"ping\n"))
                tickets = [event for event in results[-1].events if isinstance(event, SessionTicket)]
                changes["session_ticket"] = tickets[0].state if tickets else None
            return results if times > 1 else results[0]

    @pytest.mark.parametrize("kind", KEYS)
    def test_each_key_type_is_verified(self, tmp_path, kind):
        served = self.converse(tmp_path, kind)
        assert served.data() == b"ping\n"
        assert len(served.complete.peer_certificates) == 2

    @pytest.mark.parametrize("suite", SUITES)
    def test_each_cipher_suite_is_negotiated(self, tmp_path, suite):
        served = self.converse(tmp_path, priority=f"{TLS13}:-CIPHER-ALL:+{suite}", cipher_suites=tuple(SUITES.values()))
        assert served.complete.cipher_suite is SUITES[suite]
        assert served.data() == b"ping\n"

    @pytest.mark.parametrize("group", GROUPS)
    def test_each_group_is_negotiated(self, tmp_path, group):
        served = self.converse(tmp_path, priority=f"{TLS13}:-GROUP-ALL:+GROUP-{group}")
        assert served.data() == b"ping\n"

    def test_record_size_limit_of_the_server_is_obeyed(self, tmp_path):
        served = self.converse(tmp_path, "p256", "--recordsize", 512, record_size_limit=600)
        assert served.data() == b"ping\n"
        assert served.max_payload == 512

    def test_session_is_resumed(self, tmp_path):
        first, second = self.converse(tmp_path, times=2)
        assert (first.complete.resumed, second.complete.resumed) == (False, True)
        assert second.data() == b"ping\n"

    @pytest.mark.parametrize("kind", KEYS)
    def test_required_client_certificate_is_sent(self, tmp_path, trusted, kind):
        options = ("--require-client-cert", "--verify-client-cert", "--x509cafile", trusted.chain)
        credential = credential_of(client(MIDDLE, kind=kind, **DATES), MIDDLE)
        assert self.converse(tmp_path, "p256", *options, credential=credential).data() == b"ping\n"
        assert self.converse(tmp_path, "p256", *options).failed.alert is Alert.CERTIFICATE_REQUIRED
