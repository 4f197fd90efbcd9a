"""Server names and ALPN protocols on one UDP port, with unmodified clients: aioquic, and gtlsclient (ngtcp2, GnuTLS).

| application | ALPN | server name | certificate |
|---|---|---|---|
| ksmbd (kernel) | smb | ksmbd.example.com | ksmbd's own |
| smbd (userspace) | smb | smbd.example.com | smbd's own |
| apache | h3 | apache.example.com | apache's own |
| nginx | h3 | nginx.example.com | nginx's own |
| smbd | smb | quic.example.com | shared by the next row |
| apache | h3 | quic.example.com | shared by the row above |
"""

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert
from handshaked.model import KeyType
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.echo_server import echo_server
from tests.conftest import Issue
from tests.interop.ngtcp2 import error_code_of, handshake_messages
from tests.plugins.needs import mount_namespace, need
from tests.run_name import public_temporary_directory
from tests.shim.peers import refusal, visiting

TABLE = (
    ("ksmbd", "smb", "ksmbd.example.com"),
    ("smbd", "smb", "smbd.example.com"),
    ("apache", "h3", "apache.example.com"),
    ("nginx", "h3", "nginx.example.com"),
    ("smbd-quic", "smb", "quic.example.com"),
    ("apache-quic", "h3", "quic.example.com"),
)
KEYS = {
    "rsa.example.com": KeyType.RSA,
    "p256.example.com": KeyType.ECDSA_P256,
    "p384.example.com": KeyType.ECDSA_P384,
    "ed25519.example.com": KeyType.ED25519,
}
WILDCARD = "*.wild.example.com"
EXACT = "exact.wild.example.com"


@dataclass(frozen=True, slots=True)
class Scene:
    """The port of a server, and the certificates by server name."""

    port: int
    certificates: dict[str, Issued]

    def leaf(self, name: str) -> bytes:
        """Return the registered leaf certificate of `name` in DER."""
        return self.certificates[name].leaf.public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def scene(issue: Issue) -> Iterator[Scene]:
    """Run a private daemon and a server, because other tests would match these registrations."""
    names = {*(name for _, _, name in TABLE), WILDCARD, EXACT}
    certificates = {name: issue(name) for name in names}
    certificates |= {name: issue(name, key_type=key_type) for name, key_type in KEYS.items()}
    with public_temporary_directory() as directory, RunningDaemon(directory) as daemon:
        for application, alpn, name in TABLE:
            register(daemon, application, certificates[name], alpn, name)
        for name in (WILDCARD, EXACT, *KEYS):
            register(daemon, name.replace("*", "any"), certificates[name], "h3", name)
        with echo_server(daemon) as port:
            yield Scene(port, certificates)


def register(daemon: RunningDaemon, registration: str, issued: Issued, alpn: str, name: str) -> None:
    daemon.register(registration, (issued.certificate, issued.key), alpns=[alpn], server_names=[name])


# aioquic.


def served(scene: Scene, authority: Authority, name: str, *alpns: str) -> tuple[str, bytes]:
    """Connect with a client that verifies. Return the registration that served it, and the leaf it received."""

    async def work() -> tuple[str, bytes]:
        async with visiting(scene.port, name, *alpns, root=authority.root) as caller:
            answer = await caller.echoed(b"hello")
            certificate = caller._quic.tls._peer_certificate  # noqa: SLF001 - aioquic has no public access to it
            return answer.decode().partition(":")[0], certificate.public_bytes(Encoding.DER)

    return asyncio.run(asyncio.wait_for(work(), 30))


def refused(scene: Scene, name: str | None, *alpns: str) -> int:
    """Connect. Return the error code of the refusal."""
    return asyncio.run(asyncio.wait_for(refusal(scene.port, name, *alpns), 30)).error_code


@pytest.mark.parametrize(("application", "alpn", "name"), TABLE)
def test_aioquic_gets_each_row_of_the_table(
    scene: Scene, authority: Authority, application: str, alpn: str, name: str
) -> None:
    assert served(scene, authority, name, alpn) == (application, scene.leaf(name))


def test_each_row_but_the_shared_one_has_its_own_key(scene: Scene) -> None:
    assert len({scene.leaf(name) for _, _, name in TABLE}) == 5


@pytest.mark.parametrize(
    ("name", "alpns", "registration"),
    [
        ("quic.example.com", ("h3", "smb"), "apache-quic"),
        ("quic.example.com", ("smb", "h3"), "smbd-quic"),
        ("quic.example.com", ("other", "smb"), "smbd-quic"),
        ("smbd.example.com", ("h3", "smb"), "smbd"),
        (EXACT, ("h3",), EXACT),
        ("other.wild.example.com", ("h3",), "any.wild.example.com"),
    ],
)
def test_aioquic_gets_the_registration_of_the_matching_rules(
    scene: Scene, authority: Authority, name: str, alpns: tuple[str, ...], registration: str
) -> None:
    assert served(scene, authority, name, *alpns)[0] == registration


@pytest.mark.parametrize(
    ("name", "alpns", "alert"),
    [
        ("unknown.example.com", ("h3",), Alert.UNRECOGNIZED_NAME),
        ("a.b.wild.example.com", ("h3",), Alert.UNRECOGNIZED_NAME),
        ("wild.example.com", ("h3",), Alert.UNRECOGNIZED_NAME),
        ("quic.example.com", ("unknown",), Alert.NO_APPLICATION_PROTOCOL),
        ("smbd.example.com", ("h3",), Alert.NO_APPLICATION_PROTOCOL),
        (None, ("h3",), Alert.MISSING_EXTENSION),
    ],
)
def test_aioquic_gets_the_alert_of_the_matching_rules(
    scene: Scene, name: str | None, alpns: tuple[str, ...], alert: Alert
) -> None:
    assert refused(scene, name, *alpns) == alert.quic_error


@pytest.mark.parametrize("name", KEYS)
def test_aioquic_accepts_every_key_type(scene: Scene, authority: Authority, name: str) -> None:
    assert served(scene, authority, name, "h3") == (name, scene.leaf(name))


# gtlsclient. It offers only h3, sends the given host as server name, and verifies nothing, but prints what it receives.


@dataclass(frozen=True, slots=True)
class Run:
    """The output of gtlsclient: the result of the handshake, and the decrypted handshake messages."""

    output: str

    @property
    def complete(self) -> bool:
        """True if the handshake completed and was confirmed, with ALPN h3."""
        return "Negotiated ALPN is h3" in self.output and "QUIC handshake has been confirmed" in self.output

    @property
    def error_code(self) -> int | None:
        """The error code of the server's CONNECTION_CLOSE."""
        return error_code_of(self.output)

    @property
    def handshake(self) -> bytes:
        """The CRYPTO data received at the handshake level."""
        return handshake_messages(self.output)


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """Return the prefix of a command that gets its own mount namespace, for an /etc/hosts of its own."""
    need("gtlsclient", "mount namespaces")  # it sends only server names that it can resolve
    return mount_namespace()


@pytest.fixture
def gtlsclient(scene: Scene, namespace: list[str], tmp_path: Path) -> "Client":
    return Client(scene, namespace, tmp_path)


@dataclass(frozen=True, slots=True)
class Client:
    """Runs gtlsclient against `scene`."""

    scene: Scene
    namespace: list[str]
    directory: Path

    def __call__(self, host: str, *options: str) -> Run:
        """Connect to `host`."""
        hosts = self.directory / "hosts"
        hosts.write_text(f"127.0.0.1 {host}\n")
        script = f'mount --bind {hosts} /etc/hosts && exec gtlsclient "$@"'
        words = [
            "--timeout=10s",
            "--exit-on-all-streams-close",
            *options,
            host,
            str(self.scene.port),
            f"https://{host}/",
        ]
        done = subprocess.run(
            [*self.namespace, "sh", "-c", script, "sh", *words], capture_output=True, check=False, timeout=60
        )
        return Run((done.stdout + done.stderr).decode(errors="replace"))


@pytest.mark.parametrize(
    "name", ["apache.example.com", "nginx.example.com", "quic.example.com", EXACT, "other.wild.example.com", *KEYS]
)
def test_gtlsclient_gets_the_certificate_of_the_name(scene: Scene, gtlsclient: Client, name: str) -> None:
    run = gtlsclient(name)
    assert run.complete, run.output
    leaf = scene.leaf(name if name in scene.certificates else WILDCARD)
    assert leaf in run.handshake


@pytest.mark.parametrize(
    ("host", "alert"),
    [
        ("unknown.example.com", Alert.UNRECOGNIZED_NAME),
        ("ksmbd.example.com", Alert.NO_APPLICATION_PROTOCOL),
        ("smbd.example.com", Alert.NO_APPLICATION_PROTOCOL),
        ("127.0.0.1", Alert.UNRECOGNIZED_NAME),  # for an IP address it sends "localhost"
    ],
)
def test_gtlsclient_gets_the_alert_of_the_matching_rules(gtlsclient: Client, host: str, alert: Alert) -> None:
    run = gtlsclient(host)
    assert not run.complete
    assert run.error_code == alert.quic_error


@pytest.mark.parametrize("cipher", ["AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"])
def test_gtlsclient_accepts_every_cipher_suite(gtlsclient: Client, cipher: str) -> None:
    only = f"--ciphers=NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+{cipher}"
    assert gtlsclient("apache.example.com", only).complete


@pytest.mark.parametrize("group", ["X25519", "SECP256R1", "SECP384R1"])
def test_gtlsclient_accepts_every_group(gtlsclient: Client, group: str) -> None:
    assert gtlsclient("apache.example.com", f"--groups=-GROUP-ALL:+GROUP-{group}").complete


def test_gtlsclient_completes_a_handshake_with_a_hello_retry_request(gtlsclient: Client) -> None:
    # Its key shares are for the first groups, none of which the server supports.
    run = gtlsclient("apache.example.com", "--groups=-GROUP-ALL:+GROUP-FFDHE2048:+GROUP-X448:+GROUP-SECP256R1")
    assert run.complete
    assert run.output.count("Ordered CRYPTO data in Initial crypto level") == 2


def test_gtlsclient_completes_despite_packet_loss(gtlsclient: Client) -> None:
    assert gtlsclient("nginx.example.com", "--tx-loss=0.1", "--rx-loss=0.1").complete
