"""Four servers of four users share one UDP port; clients are aioquic, curl, Chromium and gtlsclient."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import curl_cffi
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demo import ask
from handshaked.testing.demux import RunningDemux, smb_server
from handshaked.testing.ports import free_port
from tests.demux import debian_programs
from tests.demux.clients import Target, refusal, served
from tests.demux.conftest import DEMUX_USER
from tests.run_name import public_temporary_directory

pytestmark = [pytest.mark.slow, pytest.mark.needs("root")]

KSMBD, SMBD, APACHE, NGINX = 2001, 2002, 2003, 2004
NAMES = ("ksmbd.example.com", "smbd.example.com", "apache.example.com", "nginx.example.com", "quic.example.com")
WEB = {
    "apache.example.com": "caddy apache.example.com",
    "nginx.example.com": "nginx nginx.example.com",
    "quic.example.com": "caddy quic.example.com",
}
REFUSALS = {
    "unknown.example.com": Alert.UNRECOGNIZED_NAME,
    "smbd.example.com": Alert.NO_APPLICATION_PROTOCOL,  # for h3
}


@dataclass(frozen=True)
class Scene:
    """The running servers, and where clients connect to."""

    debian: debian_programs.Debian
    demux: RunningDemux
    target: Target
    certificates: dict[str, Issued]


@pytest.fixture(scope="module")
def scene(authority: Authority) -> Iterator[Scene]:
    """Run four servers of four users with six registrations, and a demultiplexer of a fifth user."""
    certificates = {name: authority.issue(name, file_name=f"scene-{name}") for name in NAMES}
    with ExitStack() as stack:
        debian = stack.enter_context(debian_programs.prepared())
        directory = stack.enter_context(public_temporary_directory())  # the servers run as other users
        daemon = stack.enter_context(RunningDaemon(directory, options=("--no-kernel", f"--demux-user={DEMUX_USER}")))
        demux = stack.enter_context(RunningDemux(directory, daemon, user=DEMUX_USER))
        ports = {"nginx": free_port(), "apache": free_port()}
        _register(daemon, certificates, ports)
        stack.enter_context(smb_server(daemon, demux, "ksmbd", user=KSMBD))
        stack.enter_context(smb_server(daemon, demux, "smbd", "smbd-quic", user=SMBD))
        stack.enter_context(
            debian_programs.nginx(debian, NGINX, ports["nginx"], _pick(certificates, "nginx.example.com"))
        )
        sites = _pick(certificates, "apache.example.com", "quic.example.com")
        stack.enter_context(debian_programs.caddy(debian, APACHE, ports["apache"], sites))
        yield Scene(debian, demux, Target(demux.port, authority.root), certificates)


def _register(daemon: RunningDaemon, certificates: dict[str, Issued], ports: dict[str, int]) -> None:
    for name, server_name, user in (
        ("ksmbd", "ksmbd.example.com", KSMBD),
        ("smbd", "smbd.example.com", SMBD),
        ("smbd-quic", "quic.example.com", SMBD),
    ):
        issued = certificates[server_name]
        credential = (issued.certificate, issued.key)
        daemon.register(name, credential, alpns=["smb"], server_names=[server_name], allow_users=[str(user)])
    for name, server_name in (
        ("apache", "apache.example.com"),
        ("nginx", "nginx.example.com"),
        ("apache-quic", "quic.example.com"),
    ):
        port = ports[name.partition("-")[0]]
        daemon.register(name, alpns=["h3"], server_names=[server_name], deliver=f"forward 127.0.0.1:{port}")


def _pick(certificates: dict[str, Issued], *names: str) -> dict[str, Issued]:
    return {name: certificates[name] for name in names}


@pytest.mark.parametrize(
    ("server_name", "registration"),
    [("ksmbd.example.com", "ksmbd"), ("smbd.example.com", "smbd"), ("quic.example.com", "smbd-quic")],
)
def test_smb_clients_reach_their_server(scene: Scene, server_name: str, registration: str) -> None:
    assert served(scene.target, server_name, "smb") == (registration, scene.certificates[server_name].leaf)


def test_client_preference_selects_among_protocols(scene: Scene) -> None:
    assert served(scene.target, "quic.example.com", "smb", "h3")[0] == "smbd-quic"


def test_aioquic_gets_page_and_certificate_of_each_web_server(scene: Scene) -> None:
    for server_name, body in WEB.items():
        for alpns in (("h3",), ("h3", "smb")):
            seen = asyncio.run(ask(scene.target.port, server_name, alpns, scene.target.root))
            leaf = scene.certificates[server_name].leaf.public_bytes(Encoding.DER)
            assert (seen.page, seen.certificate == leaf) == (body, True)


def test_aioquic_gets_the_alert(scene: Scene) -> None:
    for server_name, alert in REFUSALS.items():
        assert refusal(scene.target, server_name, "h3") == alert.quic_error
    assert refusal(scene.target, "ksmbd.example.com", "h3") == Alert.NO_APPLICATION_PROTOCOL.quic_error
    assert refusal(scene.target, None, "h3") == Alert.MISSING_EXTENSION.quic_error


def _answered(scene: Scene, alert: Alert) -> float:
    return scene.demux.metrics().get(f'answered_total{{reason="{alert.label}"}}', 0)


def test_curl_with_openssl_reaches_each_web_server(scene: Scene) -> None:
    for server_name, body in WEB.items():
        visit = debian_programs.curl(scene.debian, server_name, scene.target.port, scene.target.root)
        assert visit.body.strip() == body, visit.error
    for server_name, alert in REFUSALS.items():
        before = _answered(scene, alert)
        visit = debian_programs.curl(scene.debian, server_name, scene.target.port, scene.target.root)
        assert "QUIC connection has been shut down" in visit.error  # without the reason, but without a timeout
        assert _answered(scene, alert) > before


@pytest.mark.parametrize("browser", ["chrome150", "firefox147", "safari260"])
def test_client_hellos_of_browsers_reach_each_web_server(
    scene: Scene, browser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLOGDIR", str(tmp_path))

    def fetch(server_name: str) -> str:
        port = scene.target.port
        with curl_cffi.Session(
            impersonate=browser,
            http_version=curl_cffi.CurlHttpVersion.V3ONLY,
            verify=str(scene.target.root),
            curl_options={curl_cffi.CurlOpt.RESOLVE: [f"{server_name}:{port}:127.0.0.1"]},
        ) as session:
            return str(session.get(f"https://{server_name}:{port}/", timeout=20).text)

    for server_name, body in WEB.items():
        assert fetch(server_name).strip() == body
    for server_name, alert in REFUSALS.items():
        before = _answered(scene, alert)
        with pytest.raises(curl_cffi.requests.exceptions.ConnectionError):
            fetch(server_name)
        assert _answered(scene, alert) > before


def test_chromium_reaches_each_web_server(scene: Scene) -> None:
    for server_name, body in WEB.items():
        own = scene.certificates[server_name].leaf
        visit = debian_programs.chromium(scene.debian, server_name, scene.target.port, own)
        assert body in visit.body, visit.error
    for server_name, alert in REFUSALS.items():
        visit = debian_programs.chromium(scene.debian, server_name, scene.target.port, own)
        assert alert.label in visit.error.split()


@pytest.mark.needs("gtlsclient")
def test_gtlsclient_reaches_each_web_server(scene: Scene, tmp_path: Path) -> None:
    for server_name, body in WEB.items():
        output = _gtlsclient(scene, server_name, tmp_path)
        assert "Negotiated ALPN is h3" in output
        assert (tmp_path / "index.html").read_text().strip() == body
        (tmp_path / "index.html").unlink()
    for server_name, alert in REFUSALS.items():
        codes = re.findall(
            r"CONNECTION_CLOSE.*error_code=\S*\((0x[0-9a-f]+)\)", _gtlsclient(scene, server_name, tmp_path)
        )
        assert hex(alert.quic_error) in codes


def _gtlsclient(scene: Scene, server_name: str, directory: Path) -> str:
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 {server_name}\n")
    port = scene.target.port
    client = f"gtlsclient --timeout=5s --download={directory} --exit-on-all-streams-close {server_name} {port}"
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"mount --bind {hosts} /etc/hosts && exec {client} https://{server_name}/"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=60,
    )
    return run.stdout + run.stderr
