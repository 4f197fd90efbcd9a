"""Interoperability with curl and Python's ssl module."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime

import pytest

from handshaked.errors import Alert
from handshaked.model import ClientAuth, Group
from handshaked.tls.parameters import ClientParameters, ServerParameters
from handshaked.tls.x509.trust import TrustStore
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier
from tests.certificates import DAY, authority, client, issue, root, server
from tests.interop.peers import CURL, Files, files, run
from tests.interop.tcp import TIMEOUT, TlsServer, converse, credential_of, serving

NOW = datetime.now(UTC)
DATES = {"begin": NOW - DAY, "end": NOW + DAY}
ROOT = root(**DATES)
MIDDLE = issue("intermediate", ROOT, authority(), number=101, **DATES)
LEAF = server(MIDDLE, san="a.example 127.0.0.1", **DATES)
CLIENT = client(MIDDLE, **DATES)


def server_parameters(**changes) -> ServerParameters:
    return ServerParameters(credential_of(LEAF, MIDDLE), **{"alpn": None, "transport_parameters": None, **changes})


@pytest.fixture
def trusted(tmp_path) -> Files:
    return files(tmp_path, ROOT, stem="root")


def curl(tls_server: TlsServer, trusted: Files, *options: object, host: str = "a.example"):
    where = f"{host}:{tls_server.port}"
    return run(
        "curl", "--silent", "--show-error", "--tlsv1.3", "--cacert", trusted.chain,
        "--resolve", f"{where}:127.0.0.1", *options, f"https://{where}/",
    )  # fmt: skip


@CURL
class TestCurl:
    def test_page_is_fetched(self, trusted):
        with serving(server_parameters(alpn=b"http/1.1")) as tls_server:
            assert curl(tls_server, trusted).stdout == b"hello"
            assert tls_server.served().complete.alpn == b"http/1.1"

    def test_client_that_connects_by_address_sends_no_server_name(self, trusted):
        with serving(server_parameters()) as tls_server:
            assert curl(tls_server, trusted, host="127.0.0.1").stdout == b"hello"
            assert tls_server.served().complete.server_name is None

    def test_hello_retry_request_is_followed(self, trusted):
        with serving(server_parameters(groups=(Group.SECP384R1,))) as tls_server:
            assert curl(tls_server, trusted).stdout == b"hello"

    def test_required_client_certificate_is_accepted(self, trusted, tmp_path):
        verifier = ClientChainVerifier(TrustStore([ROOT.certificate]))
        made = files(tmp_path, CLIENT, MIDDLE, stem="client")
        with serving(server_parameters(client_auth=ClientAuth.REQUIRE, client_verifier=verifier)) as tls_server:
            assert curl(tls_server, trusted, "--cert", made.chain, "--key", made.key).stdout == b"hello"
            assert curl(tls_server, trusted).returncode != 0
            assert tls_server.served().complete.peer_certificates[0] == CLIENT.der
            assert tls_server.served().failed.alert is Alert.CERTIFICATE_REQUIRED

    def test_name_mismatch_is_refused(self, trusted):
        with serving(server_parameters()) as tls_server:
            assert curl(tls_server, trusted, host="b.example").returncode == 60


class TestPythonSsl:
    def test_client_of_ssl_module(self, trusted):
        context = ssl.create_default_context(cafile=trusted.chain)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        text = bytes(range(256)) * 300
        with (
            serving(server_parameters()) as tls_server,
            socket.create_connection(("127.0.0.1", tls_server.port), TIMEOUT) as raw,
            context.wrap_socket(raw, server_hostname="a.example") as connection,
        ):
            connection.sendall(text)
            received = b""
            while len(received) < len(text):
                received += connection.recv(65536)
            assert received == text
            connection.unwrap().close()
            assert tls_server.served().data() == text

    @pytest.mark.parametrize("certificate", [True, False])
    def test_server_of_ssl_module(self, trusted, tmp_path, certificate):
        made = files(tmp_path, LEAF, MIDDLE)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=trusted.chain)
        context.load_cert_chain(made.chain, made.key)
        context.verify_mode = ssl.CERT_REQUIRED
        parameters = ClientParameters(
            (),
            "a.example",
            None,
            ServerChainVerifier(TrustStore([ROOT.certificate])),
            credential=credential_of(CLIENT, MIDDLE) if certificate else None,
        )

        def serve() -> None:
            with listener.accept()[0] as raw:
                raw.settimeout(TIMEOUT)
                try:
                    with context.wrap_socket(raw, server_side=True) as connection:
                        while text := connection.recv(65536):
                            connection.sendall(text)
                        connection.unwrap()
                except ssl.SSLError as error:
                    outcome.append(error.reason)

        outcome: list[str] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            served = converse(listener.getsockname()[1], parameters, b"ping" * 10_000)
            thread.join(TIMEOUT)
        if certificate:
            assert served.data() == b"ping" * 10_000
            assert outcome == []
        else:
            assert served.failed.alert is Alert.CERTIFICATE_REQUIRED
            assert outcome == ["PEER_DID_NOT_RETURN_A_CERTIFICATE"]
