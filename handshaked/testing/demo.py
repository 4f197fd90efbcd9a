"""A demonstration: four servers share one UDP port, each with its own certificates.

Each server is a process (as root: a user) of its own and shares the port through handshaked-demux. The private keys of
the SMB servers are in the daemon. Installed web servers run unmodified, with their own private keys; if none is
installed, an HTTP/3 server of this project takes its place. ksmbd, a kernel server, is represented by a process.
Exits with 1 if a client does not get what it should.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server
from handshaked.testing.http3 import WebClient
from handshaked.testing.ports import free_port
from handshaked.testing.smb_server import pull_frames, push_frame
from handshaked.testing.web_servers import Site, installed, web_server

USERS = {"ksmbd": 2001, "smbd": 2002, "apache": 2003, "nginx": 2004}
DEMUX_USER = 2005
# Apache does not support HTTP/3, so another server represents it.
WEB_SERVERS = {"apache": ("caddy", "gtlsserver"), "nginx": ("nginx",)}


@dataclass(frozen=True, slots=True)
class Row:
    """A registration: an application serves a server name and an ALPN protocol."""

    application: str
    alpn: str
    server_name: str

    @property
    def registration(self) -> str:
        """The name of the registration."""
        return f"{self.application}-{self.server_name.partition('.')[0]}-{self.alpn}"


ROWS = (
    Row("ksmbd", "smb", "ksmbd.example.com"),
    Row("smbd", "smb", "smbd.example.com"),
    Row("apache", "h3", "apache.example.com"),
    Row("nginx", "h3", "nginx.example.com"),
    Row("smbd", "smb", "quic.example.com"),
    Row("apache", "h3", "quic.example.com"),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A client's request and the expected result: a registration, or an alert."""

    server_name: str | None
    alpns: tuple[str, ...]
    expected: Row | Alert


ASKS = (
    *(Ask(row.server_name, (row.alpn,), row) for row in ROWS),
    Ask("quic.example.com", ("h3", "smb"), ROWS[5]),
    Ask("quic.example.com", ("smb", "h3"), ROWS[4]),
    Ask("unknown.example.com", ("h3",), Alert.UNRECOGNIZED_NAME),
    Ask("smbd.example.com", ("h3",), Alert.NO_APPLICATION_PROTOCOL),
    Ask(None, ("h3",), Alert.MISSING_EXTENSION),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """The answer that a client received; ``page`` is the name of the registration, as the server sent it."""

    page: str
    certificate: bytes
    error_code: int | None
    seconds: float


async def ask(port: int, server_name: str | None, alpns: tuple[str, ...], root: Path) -> Seen:
    """Connect with stock aioquic, verify the server, and fetch its name: by HTTP/3, or in an SMB frame."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=list(alpns),
        # With an IP address aioquic sends no server name.
        server_name=server_name or "127.0.0.1",
        cafile=str(root),
        verify_mode=ssl.CERT_REQUIRED if server_name else ssl.CERT_NONE,
    )
    clients: list[WebClient] = []

    def create(*arguments: Any, **options: Any) -> WebClient:
        clients.append(WebClient(*arguments, **options))
        return clients[0]

    started = time.perf_counter()
    try:
        async with connect("127.0.0.1", port, configuration=configuration, create_protocol=create) as connected:
            seconds = time.perf_counter() - started
            client = cast("WebClient", connected)
            page = await (client.fetch(server_name or "") if client.alpn == "h3" else _echo(client))
            leaf = client.certificate
            return Seen(page.strip(), leaf.public_bytes(Encoding.DER) if leaf else b"", None, seconds)
    except ConnectionError:
        return Seen("", b"", clients[0].closed_with, time.perf_counter() - started)


async def _echo(client: WebClient) -> str:
    reader, writer = await client.create_stream()
    writer.write(push_frame(b"hello"))
    writer.write_eof()
    (answer,) = pull_frames(bytearray(await reader.read()))
    return answer.decode().partition(":")[0]


def ask_with_gtlsclient(port: int, server_name: str, directory: Path) -> tuple[str, float]:
    """Fetch a page with gtlsclient (GnuTLS and ngtcp2). Return the page and the time it took, in seconds.

    gtlsclient sends only server names that it can resolve, so it runs with an /etc/hosts of its own.
    """
    hosts, page = directory / "hosts", directory / "index.html"
    hosts.write_text(f"127.0.0.1 {server_name}\n")
    page.unlink(missing_ok=True)
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    client = f"gtlsclient --timeout=5s --download={directory} --exit-on-all-streams-close {server_name} {port}"
    started = time.perf_counter()
    subprocess.run(  # noqa: S603 - fixed words, and names of the table above
        [*namespace, "sh", "-c", f"mount --bind {hosts} /etc/hosts && exec {client} https://{server_name}/"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    seconds = time.perf_counter() - started
    return page.read_text().strip() if page.exists() else "", seconds


class Scene:
    """The daemon, the demultiplexer and the servers, until `stack` is closed."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.certificates = {name: self.authority.issue(name) for name in sorted({row.server_name for row in ROWS})}
        self._stack = stack
        options = ("--no-kernel", f"--demux-user={DEMUX_USER}")
        self._daemon = stack.enter_context(RunningDaemon(directory, options=options))
        self._demux = stack.enter_context(RunningDemux(directory, self._daemon, user=DEMUX_USER))
        self.port = self._demux.port
        print(f"{'server':10}{'user':8}what it is")
        for application, user in USERS.items():
            rows = [row for row in ROWS if row.application == application]
            own_user = user if os.geteuid() == 0 else None
            print(
                f"{application:10}{own_user or os.geteuid():<8}{self._serve(application, rows, own_user)}", flush=True
            )

    def _serve(self, application: str, rows: list[Row], user: int | None) -> str:
        """Start a server for `rows` and register them. Return its description."""
        candidates = WEB_SERVERS.get(application, ())
        program = installed(*candidates)
        if program is not None:
            for row in rows:
                self._run_web_server(program, row, user)
            return f"{program}, unmodified, with its own private key"
        for row in rows:
            self._register(row, user)
        module = "handshaked.testing." + ("http3" if candidates else "smb_server")
        names = [row.registration for row in rows]
        self._stack.enter_context(smb_server(self._daemon, self._demux, *names, user=user, module=module))
        if not candidates:
            return "SMB echo server, private key in handshaked"
        missing = " and ".join(candidates)
        return f"HTTP/3 server of this project, private key in handshaked (no {missing} with HTTP/3 installed)"

    def _register(self, row: Row, user: int | None) -> None:
        issued = self.certificates[row.server_name]
        # An ordinary user owns all registrations, and needs no grant.
        access = {} if user is None else {"allow_users": [str(user)]}
        credential = (issued.certificate, issued.key)
        self._daemon.register(row.registration, credential, alpns=[row.alpn], server_names=[row.server_name], **access)

    def _run_web_server(self, program: str, row: Row, user: int | None) -> None:
        home, issued, port = self.directory / row.registration, self.certificates[row.server_name], free_port()
        home.mkdir(mode=0o700)
        site = Site(row.server_name, home / "certificate.pem", home / "key.pem", row.registration)
        shutil.copyfile(issued.certificate, site.certificate)
        shutil.copyfile(issued.key, site.key)
        if user is not None:
            for path in (home, site.certificate, site.key):
                os.chown(path, user, user)
        self._stack.enter_context(web_server(program, home, port, site, user))
        deliver = f"forward 127.0.0.1:{port}"
        self._daemon.register(row.registration, alpns=[row.alpn], server_names=[row.server_name], deliver=deliver)


async def show(asks: tuple[Ask, ...], scene: Scene) -> bool:
    """Connect once for each of `asks` and print the result. Return whether all were as expected."""
    right = True
    for one in asks:
        seen = await ask(scene.port, one.server_name, one.alpns, scene.authority.root)
        if isinstance(one.expected, Row):
            leaf = scene.certificates[one.expected.server_name].leaf.public_bytes(Encoding.DER)
            ok = seen.page == one.expected.registration and seen.certificate == leaf
            got, key = seen.page or "refused", hashlib.sha256(seen.certificate).hexdigest()[:16]
        else:
            ok = seen.error_code == one.expected.quic_error
            got, key = f"refused: {_alert_label(seen.error_code)}", "-"
        # The time of a refusal would be that of aioquic's draining period.
        _print_row("aioquic", one, got, key, None if seen.error_code else seen.seconds, ok)
        right = right and ok
    return right


async def _show_gtlsclient(scene: Scene) -> bool:
    if shutil.which("gtlsclient") is None:
        print("gtlsclient  not installed (on Debian: apt-get install ngtcp2-client)")
        return True
    right = True
    for one in ASKS:
        if isinstance(one.expected, Row) and one.alpns == ("h3",):
            name = one.expected.server_name
            page, seconds = await asyncio.to_thread(ask_with_gtlsclient, scene.port, name, scene.directory)
            ok = page == one.expected.registration
            _print_row("gtlsclient", one, page or "failed", "-", seconds, ok)
            right = right and ok
    return right


async def demonstrate(directory: Path) -> bool:
    """Run the demonstration in `directory`. Return whether all results were as expected."""
    with ExitStack() as stack:
        scene = Scene(directory, stack)
        print(f"\nAll of them share UDP port {scene.port}. The result is the registration that served the client,")
        print("or the TLS alert that refused it; certificates are shown by the start of their SHA-256.\n")
        print(f"{'client':12}{'server name':24}{'ALPN':8}{'result':34}{'certificate':18}{'ms':>6}")
        right = await show(ASKS, scene)
        return await _show_gtlsclient(scene) and right


def _print_row(client: str, asked: Ask, got: str, key: str, seconds: float | None, ok: bool) -> None:
    name = asked.server_name or "(none)"
    took = "-" if seconds is None else f"{seconds * 1000:.1f}"
    mark = "" if ok else "  WRONG"
    print(f"{client:12}{name:24}{','.join(asked.alpns):8}{got:34}{key:18}{took:>6}{mark}", flush=True)


def _alert_label(error_code: int | None) -> str:
    known = {alert.quic_error: alert.label for alert in Alert}
    return known.get(error_code or 0, f"error {error_code}")


def main() -> None:
    """Run the demonstration."""
    logging.disable(logging.WARNING)  # aioquic warns about the refusals that the demonstration expects
    print("Starting handshaked, handshaked-demux and four servers\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="handshaked-demo-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the servers run as other users
        right = asyncio.run(demonstrate(directory))
    print("\nAll results are as expected." if right else "\nSome results are WRONG.")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
