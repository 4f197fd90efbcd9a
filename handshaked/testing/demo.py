"""The demonstration: the mail's table on one UDP port, by servers that know nothing of each other.

Four servers, each of processes of its own (as root: of a user of its own), share the port through handshaked-demux.
The keys of the SMB servers are in the daemon. Web servers that are installed here are run as they are, with their own
keys; where there is none, one of ours stands in. What is registered as ksmbd's is served by a process like the others.
Exits with 1 if a row is wrong.
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
from handshaked.testing.smb_server import free_port, pull_frames, push_frame
from handshaked.testing.web_servers import Site, installed, web_server

USERS = {"ksmbd": 2001, "smbd": 2002, "apache": 2003, "nginx": 2004}
DEMUX_USER = 2005
# Apache has no HTTP/3: others play it.
WEB_SERVERS = {"apache": ("caddy", "gtlsserver"), "nginx": ("nginx",)}


@dataclass(frozen=True, slots=True)
class Row:
    """A registration of the mail's table."""

    application: str
    alpn: str
    server_name: str

    @property
    def registration(self) -> str:
        """What the row is registered as."""
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
    """What a client asks for, and what must come of it: a row, or an alert."""

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
    """What a client saw; ``page`` is what the server said of itself: the name of its registration."""

    page: str
    certificate: bytes
    error_code: int | None
    seconds: float


async def ask(port: int, server_name: str | None, alpns: tuple[str, ...], root: Path) -> Seen:
    """Connect with stock aioquic, verify the server, and have it say who it is: in a page, or in an SMB frame."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=list(alpns),
        # An IP address is what makes aioquic send no server name.
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
    """The page that GnuTLS's and ngtcp2's client gets, and how long it took, in seconds.

    It sends as server name only what it can resolve: it gets an /etc/hosts of its own.
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
    """Everybody who is in the mail's table, until `stack` is closed."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.certificates = {name: self.authority.issue(name) for name in sorted({row.server_name for row in ROWS})}
        self._stack = stack
        options = ("--no-kernel", f"--demux-user={DEMUX_USER}")
        self._daemon = stack.enter_context(RunningDaemon(directory, options=options))
        self._demux = stack.enter_context(RunningDemux(directory, self._daemon, user=DEMUX_USER))
        self.port = self._demux.port
        for application, user in USERS.items():
            rows = [row for row in ROWS if row.application == application]
            self._serve(application, rows, user if os.geteuid() == 0 else None)

    def _serve(self, application: str, rows: list[Row], user: int | None) -> None:
        wanted = WEB_SERVERS.get(application, ())
        program = installed(*wanted)
        if program is not None:
            for row in rows:
                self._run_web_server(program, row, user)
            what = f"{program}, unmodified, with a key of its own"
        else:
            for row in rows:
                self._register(row, user)
            module = "handshaked.testing." + ("http3" if wanted else "smb_server")
            names = [row.registration for row in rows]
            self._stack.enter_context(smb_server(self._daemon, self._demux, *names, user=user, module=module))
            what = "a web server of ours" if wanted else "an SMB echo server"
            what += ", its key in handshaked"
            what += f" (not installed: {' or '.join(wanted)} with HTTP/3)" if wanted else ""
        print(f"{application + ':':8}{'' if user is None else f'uid {user}, '}{what}")

    def _register(self, row: Row, user: int | None) -> None:
        issued = self.certificates[row.server_name]
        # An ordinary user owns all there is.
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
    """Ask, print a line each, and tell whether all was as expected."""
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
        # After a refusal aioquic waits out its draining period, which tells nothing.
        _print_row("aioquic", one, got, key, None if seen.error_code else seen.seconds, ok)
        right = right and ok
    return right


async def _show_gtlsclient(scene: Scene) -> bool:
    if shutil.which("gtlsclient") is None:
        print("gtlsclient  (not installed; on Debian: apt-get install ngtcp2-client)")
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
    """The whole demonstration in `directory`; whether every row was right."""
    with ExitStack() as stack:
        scene = Scene(directory, stack)
        print(f"\nAll of them share UDP port {scene.port}. Who asks for what, and who answers:\n")
        print(f"{'client':12}{'asked for':24}{'ALPN':8}{'answered by':34}{'certificate':17}{'ms':>6}")
        right = await show(ASKS, scene)
        return await _show_gtlsclient(scene) and right


def _print_row(client: str, asked: Ask, got: str, key: str, seconds: float | None, ok: bool) -> None:
    name = asked.server_name or "(no server name)"
    took = "-" if seconds is None else f"{seconds * 1000:.1f}"
    mark = "" if ok else "  WRONG"
    print(f"{client:12}{name:24}{','.join(asked.alpns):8}{got:34}{key:17}{took:>6}{mark}", flush=True)


def _alert_label(error_code: int | None) -> str:
    known = {alert.quic_error: alert.label for alert in Alert}
    return known.get(error_code or 0, f"error {error_code}")


def main() -> None:
    """Run the demonstration."""
    logging.disable(logging.WARNING)  # aioquic warns of the refusals that are to be shown
    with tempfile.TemporaryDirectory(prefix="handshaked-demo-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the servers run as other users
        right = asyncio.run(demonstrate(directory))
    print("\nAll rows are right." if right else "\nSome rows are WRONG.")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
