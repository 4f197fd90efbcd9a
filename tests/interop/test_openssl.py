"""Interoperability with OpenSSL's s_client and s_server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from handshaked.errors import Alert
from handshaked.events import SessionTicket
from handshaked.model import CipherSuite, ClientAuth, Group
from handshaked.testing.ports import free_port
from handshaked.tls.parameters import ClientParameters, EarlyData, ServerParameters, Tickets
from handshaked.tls.tickets import RotatingTicketKeys
from handshaked.tls.x509.trust import TrustStore
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier
from tests.certificates import DAY, Issued, authority, client, issue, root, server
from tests.interop.peers import OPENSSL, Files, files, program, run
from tests.interop.tcp import Guard, TlsServer, converse, credential_of, serving

pytestmark = OPENSSL

NOW = datetime.now(UTC)
DATES = {"begin": NOW - DAY, "end": NOW + DAY}
ROOT = root(**DATES)
SUITES = {
    "TLS_AES_128_GCM_SHA256": CipherSuite.AES_128_GCM_SHA256,
    "TLS_AES_256_GCM_SHA384": CipherSuite.AES_256_GCM_SHA384,
    "TLS_CHACHA20_POLY1305_SHA256": CipherSuite.CHACHA20_POLY1305_SHA256,
    "TLS_AES_128_CCM_SHA256": CipherSuite.AES_128_CCM_SHA256,
}
KEYS = ("p256", "p384", "p521", "ed25519", "ed448", "rsa2048")
GROUPS = {
    "X25519": Group.X25519,
    "P-256": Group.SECP256R1,
    "P-384": Group.SECP384R1,
    "P-521": Group.SECP521R1,
}


def leaf(kind: str = "p256", **options) -> Issued:
    return server(ROOT, kind=kind, san="a.example 127.0.0.1", **{**DATES, **options})


def server_parameters(kind: str = "p256", **changes) -> ServerParameters:
    return ServerParameters(credential_of(leaf(kind)), None, None, **changes)


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


def s_client(tls_server: TlsServer, trusted: Files, *options: object) -> str:
    """Run s_client and return its output; it ends when the server closes the connection after its answer."""
    done = run(
        "openssl", "s_client", "-connect", f"127.0.0.1:{tls_server.port}", "-tls1_3", "-servername", "a.example",
        "-CAfile", trusted.chain, "-verify_hostname", "a.example", "-verify_return_error", "-ign_eof", *options,
        text=b"GET / HTTP/1.0\r\n\r\n",
    )  # fmt: skip
    return done.stdout.decode("ascii", "replace")


class TestServer:
    """Our server with s_client."""

    @pytest.mark.parametrize("kind", KEYS)
    def test_each_key_type_is_trusted(self, trusted, kind):
        with serving(server_parameters(kind)) as tls_server:
            said = s_client(tls_server, trusted)
            assert "Verification: OK" in said
            assert "hello" in said
            assert tls_server.served().complete.server_name == "a.example"

    @pytest.mark.parametrize("suite", SUITES)
    def test_each_cipher_suite_is_negotiated(self, trusted, suite):
        with serving(server_parameters(cipher_suites=(SUITES[suite],))) as tls_server:
            assert f"Cipher is {suite}" in s_client(tls_server, trusted, "-ciphersuites", suite)
            assert tls_server.served().complete.cipher_suite is SUITES[suite]

    @pytest.mark.parametrize("group", GROUPS)
    def test_groups_with_and_without_retry(self, trusted, group):
        with serving(server_parameters(groups=(GROUPS[group],))) as tls_server:
            assert "hello" in s_client(tls_server, trusted, "-groups", group)
            assert "hello" in s_client(tls_server, trusted)  # it sends a key share for X25519

    def test_small_records_are_reassembled(self, trusted):
        """s_client sends small records; -maxfraglen does not apply to TLS 1.3."""
        with serving(server_parameters()) as tls_server:
            assert "hello" in s_client(tls_server, trusted, "-max_send_frag", 512, "-alpn", "x" * 200 + "," + "y" * 200)

    def test_session_is_resumed(self, trusted, tmp_path):
        keys = RotatingTicketKeys([(NOW.timestamp(), bytes(32))])
        with serving(server_parameters(tickets=Tickets(keys))) as tls_server:
            s_client(tls_server, trusted, "-sess_out", tmp_path / "session")
            said = s_client(tls_server, trusted, "-sess_in", tmp_path / "session")
            assert "Reused, TLSv1.3" in said
            assert [tls_server.served().complete.resumed for _ in range(2)] == [False, True]

    @pytest.mark.parametrize("accepts", [True, False])
    @pytest.mark.parametrize("group", ["X25519", "P-384"])
    def test_early_data_is_accepted_only_with_consent_and_without_retry(self, trusted, tmp_path, accepts, group):
        """Early data is accepted, rejected, and rejected with a HelloRetryRequest."""
        keys = RotatingTicketKeys([(NOW.timestamp(), bytes(32))])
        (tmp_path / "early").write_bytes(b"early bird ")
        first = server_parameters(tickets=Tickets(keys), early_data=EarlyData(Guard()))
        with serving(first) as tls_server:
            s_client(tls_server, trusted, "-sess_out", tmp_path / "session")
        second = server_parameters(
            tickets=Tickets(keys), early_data=first.early_data if accepts else None, groups=(GROUPS[group],)
        )
        with serving(second) as tls_server:
            said = s_client(tls_server, trusted, "-sess_in", tmp_path / "session", "-early_data", tmp_path / "early")
            served = tls_server.served()
        taken = accepts and group == "X25519"
        assert served.complete.early_data_accepted == taken
        assert served.data().startswith(b"early bird") == taken
        assert ("Early data was accepted" in said) == taken
        assert "hello" in said

    def test_key_update_is_followed(self, trusted):
        with serving(server_parameters()) as tls_server:
            done = run(
                "openssl", "s_client", "-connect", f"127.0.0.1:{tls_server.port}", "-tls1_3", text=b"K\nk\nQ\n"
            )  # fmt: skip
            assert b"KEYUPDATE" in done.stdout
            assert not any(hasattr(event, "alert") for event in tls_server.served().events)

    @pytest.mark.parametrize(
        ("options", "alert"),
        [(["-groups", "ffdhe2048"], Alert.HANDSHAKE_FAILURE), (["-sigalgs", "RSA+SHA256"], Alert.HANDSHAKE_FAILURE)],
    )
    def test_no_common_group_or_signature_scheme(self, trusted, options, alert):
        with serving(server_parameters()) as tls_server:
            said = s_client(tls_server, trusted, *options)
            assert tls_server.served().failed.alert is alert
            assert f"SSL alert number {alert}" in said

    def test_alert_of_a_client_that_distrusts_the_server_is_reported(self, trusted, tmp_path):
        with serving(server_parameters()) as tls_server:
            s_client(tls_server, files(tmp_path, root("other", number=9, **DATES), stem="other"))
            failed = tls_server.served().failed
            assert failed.alert is Alert.UNKNOWN_CA
            assert "peer sent" in failed.reason


class TestClientCertificates:
    """Our server asks s_client for a certificate."""

    MIDDLE = issue("intermediate", ROOT, authority(), number=101, **DATES)

    def serve(self, trusted, mode: ClientAuth, *options: object):
        verifier = ClientChainVerifier(TrustStore([ROOT.certificate]))
        names = (ROOT.certificate.subject.public_bytes(),)
        parameters = server_parameters(client_auth=mode, client_verifier=verifier, client_authorities=names)
        with serving(parameters) as tls_server:
            said = s_client(tls_server, trusted, *options)
            return tls_server.served(), said

    def options(self, tmp_path, *chain: Issued) -> list[object]:
        made = files(tmp_path, *chain, stem="client")
        return ["-cert", made.chain, "-key", made.key, *(("-cert_chain", made.above) if len(chain) > 1 else ())]

    @pytest.mark.parametrize("kind", KEYS)
    @pytest.mark.parametrize("mode", [ClientAuth.REQUEST, ClientAuth.REQUIRE])
    def test_valid_client_certificate_is_accepted(self, trusted, tmp_path, kind, mode):
        chain = client(self.MIDDLE, kind=kind, **DATES), self.MIDDLE
        served, said = self.serve(trusted, mode, *self.options(tmp_path, *chain))
        assert "hello" in said
        assert served.complete.peer_certificates == tuple(each.der for each in chain)

    def test_no_certificate_when_requested(self, trusted):
        served, said = self.serve(trusted, ClientAuth.REQUEST)
        assert "Acceptable client certificate CA names\nCN = root" in said
        assert served.complete.peer_certificates == ()

    def test_no_certificate_when_required(self, trusted):
        served, said = self.serve(trusted, ClientAuth.REQUIRE)
        assert served.failed.alert is Alert.CERTIFICATE_REQUIRED
        assert f"SSL alert number {Alert.CERTIFICATE_REQUIRED}" in said

    @pytest.mark.parametrize(
        ("chain", "alert"),
        [
            ([client(ROOT, begin=NOW - 2 * DAY, end=NOW - DAY)], Alert.CERTIFICATE_EXPIRED),
            ([client(ROOT, begin=NOW + DAY, end=NOW + 2 * DAY)], Alert.CERTIFICATE_EXPIRED),
            ([client(root("stranger", number=9, **DATES), **DATES)], Alert.UNKNOWN_CA),
            ([client(MIDDLE, **DATES)], Alert.UNKNOWN_CA),
            ([leaf()], Alert.UNSUPPORTED_CERTIFICATE),
        ],
    )
    @pytest.mark.parametrize("mode", [ClientAuth.REQUEST, ClientAuth.REQUIRE])
    def test_invalid_client_certificate_is_refused(self, trusted, tmp_path, chain, alert, mode):
        served, said = self.serve(trusted, mode, *self.options(tmp_path, *chain))
        assert served.failed.alert is alert
        assert f"SSL alert number {alert}" in said


class TestClient:
    """Our client with s_server, which sends lines back reversed."""

    def converse(self, tmp_path, made: Files, *options: object, **changes):
        port = free_port()
        command = ("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-rev", "-tls1_3")
        with program(*command, "-cert", made.chain, "-key", made.key, *options, port=port):
            return converse(port, client_parameters(**changes), b"ping\n")

    @pytest.mark.parametrize("kind", KEYS)
    def test_each_key_type_is_verified(self, tmp_path, kind):
        served = self.converse(tmp_path, files(tmp_path, leaf(kind)))
        assert served.data() == b"gnip\n"
        assert len(served.complete.peer_certificates) == 1
        assert sum(isinstance(event, SessionTicket) for event in served.events) == 2

    @pytest.mark.parametrize("suite", SUITES)
    def test_each_cipher_suite_is_negotiated(self, tmp_path, suite):
        served = self.converse(
            tmp_path, files(tmp_path, leaf()), "-ciphersuites", suite, cipher_suites=tuple(SUITES.values())
        )
        assert served.complete.cipher_suite is SUITES[suite]
        assert served.data() == b"gnip\n"

    @pytest.mark.parametrize("group", GROUPS)
    def test_each_group_is_negotiated(self, tmp_path, group):
        served = self.converse(tmp_path, files(tmp_path, leaf()), "-groups", group)
        assert served.data() == b"gnip\n"

    def test_session_is_resumed(self, tmp_path):
        made, port = files(tmp_path, leaf()), free_port()
        with program(
            "openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-rev", "-cert", made.chain, "-key", made.key,
            port=port,
        ):  # fmt: skip
            first = converse(port, client_parameters(), b"ping\n")
            ticket = next(event for event in first.events if isinstance(event, SessionTicket))
            second = converse(port, client_parameters(session_ticket=ticket.state), b"ping\n")
        assert (first.complete.resumed, second.complete.resumed) == (False, True)
        assert second.data() == b"gnip\n"

    @pytest.mark.parametrize("kind", KEYS)
    def test_client_certificate_is_accepted(self, tmp_path, kind):
        trusted = files(tmp_path, ROOT, stem="root")
        credential = credential_of(client(ROOT, kind=kind, **DATES))
        options = ("-Verify", 1, "-verify_return_error", "-CAfile", trusted.chain)
        assert self.converse(tmp_path, files(tmp_path, leaf()), *options, credential=credential).data() == b"gnip\n"

    def test_missing_client_certificate_is_refused(self, tmp_path):
        served = self.converse(tmp_path, files(tmp_path, leaf()), "-Verify", 1)
        assert served.failed.alert is Alert.CERTIFICATE_REQUIRED

    @pytest.mark.parametrize(
        ("chain", "alert"),
        [
            ([leaf(begin=NOW - 2 * DAY, end=NOW - DAY)], Alert.CERTIFICATE_EXPIRED),
            ([server(root("stranger", number=9, **DATES), **DATES)], Alert.UNKNOWN_CA),
            ([server(ROOT, san="b.example", **DATES)], Alert.BAD_CERTIFICATE),
            ([client(ROOT, **DATES)], Alert.UNSUPPORTED_CERTIFICATE),
        ],
    )
    def test_invalid_server_certificate_is_refused(self, tmp_path, chain, alert):
        made, port = files(tmp_path, *chain), free_port()
        with program(
            "openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-rev", "-cert", made.chain, "-key", made.key,
            port=port,
        ) as process:  # fmt: skip
            assert converse(port, client_parameters(), b"ping\n").failed.alert is alert
            said = b""
            while f"SSL alert number {alert}".encode() not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
