"""The demonstration: the mail's table on one UDP port, by servers that know nothing of each other.

Four servers, each a process (as root: of a user of its own), share the port through handshaked-demux; their keys are
in the daemon. What is registered as ksmbd's is served by a process like the others. Exits with 1 if a row is wrong.
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

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server
from handshaked.testing.smb_server import pull_frames, push_frame

USERS = {"ksmbd": 2001, "smbd": 2002, "apache": 2003, "nginx": 2004}
DEMUX_USER = 2005


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


class _Client(QuicConnectionProtocol):
    """Remembers how the connection ended."""

    closed_with: int | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        """Note the error code."""
        if isinstance(event, ConnectionTerminated):
            self.closed_with = event.error_code
        super().quic_event_received(event)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw."""

    registration: str
    certificate: bytes
    error_code: int | None
    seconds: float


async def ask(port: int, server_name: str | None, alpns: tuple[str, ...], root: Path) -> Seen:
    """Connect with stock aioquic, verify the server, and let it say which registration served us."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=list(alpns),
        # An IP address is what makes aioquic send no server name.
        server_name=server_name or "127.0.0.1",
        cafile=str(root),
        verify_mode=ssl.CERT_REQUIRED if server_name else ssl.CERT_NONE,
    )
    clients: list[_Client] = []

    def create(*arguments: object, **options: object) -> _Client:
        clients.append(_Client(*arguments, **options))  # type: ignore[arg-type] # passed on as they come
        return clients[0]

    started = time.perf_counter()
    try:
        async with connect("127.0.0.1", port, configuration=configuration, create_protocol=create) as client:
            seconds = time.perf_counter() - started
            reader, writer = await client.create_stream()
            writer.write(push_frame(b"hello"))
            writer.write_eof()
            (answer,) = pull_frames(bytearray(await reader.read()))
            registration, _, _ = answer.decode().partition(":")
            leaf = client._quic.tls._peer_certificate  # noqa: SLF001 - aioquic shows it in no other way
            return Seen(registration, leaf.public_bytes(Encoding.DER) if leaf else b"", None, seconds)
    except ConnectionError:
        return Seen("", b"", clients[0].closed_with, time.perf_counter() - started)


def register_rows(daemon: RunningDaemon, authority: Authority) -> dict[str, Issued]:
    """Register the mail's table, each name with a key of its own; the certificates by server name."""
    certificates = {name: authority.issue(name) for name in sorted({row.server_name for row in ROWS})}
    for row in ROWS:
        issued = certificates[row.server_name]
        # An ordinary user owns all there is.
        access = {"allow_users": [str(USERS[row.application])]} if os.geteuid() == 0 else {}
        daemon.register(
            row.registration,
            (issued.certificate, issued.key),
            alpns=[row.alpn],
            server_names=[row.server_name],
            **access,
        )
    return certificates


def ask_with_gtlsclient(port: int, ask: Ask, directory: Path) -> tuple[bool, float]:
    """Whether GnuTLS's and ngtcp2's client completes that handshake, and how long it took, in seconds.

    It sends as server name only what it can resolve: it gets an /etc/hosts of its own.
    """
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 {ask.server_name}\n")
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    client = f"gtlsclient --timeout=5s {ask.server_name} {port} --exit-on-all-streams-close https://{ask.server_name}/"
    started = time.perf_counter()
    run = subprocess.run(  # noqa: S603 - fixed words, and names of the table above
        [*namespace, "sh", "-c", f"mount --bind {hosts} /etc/hosts && exec {client}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "Negotiated ALPN is " + ask.alpns[0] in run.stdout + run.stderr, time.perf_counter() - started


async def show(asks: tuple[Ask, ...], port: int, authority: Authority, certificates: dict[str, Issued]) -> bool:
    """Ask, print a line each, and tell whether all was as expected."""
    right = True
    for one in asks:
        seen = await ask(port, one.server_name, one.alpns, authority.root)
        if isinstance(one.expected, Row):
            leaf = certificates[one.expected.server_name].leaf.public_bytes(Encoding.DER)
            ok = seen.registration == one.expected.registration and seen.certificate == leaf
            got, key = seen.registration or "refused", hashlib.sha256(seen.certificate).hexdigest()[:16]
        else:
            ok = seen.error_code == one.expected.quic_error
            got, key = f"refused: {_alert_label(seen.error_code)}", "-"
        # After a refusal aioquic waits out its draining period, which tells nothing.
        _print_row("aioquic", one, got, key, None if seen.error_code else seen.seconds, ok)
        right = right and ok
    return right


async def demonstrate(directory: Path) -> bool:
    """The whole demonstration in `directory`; whether every row was right."""
    authority = Authority(directory)
    with ExitStack() as stack:
        options = ("--no-kernel", f"--demux-user={DEMUX_USER}")
        daemon = stack.enter_context(RunningDaemon(directory, options=options))
        demux = stack.enter_context(RunningDemux(directory, daemon, user=DEMUX_USER))
        certificates = register_rows(daemon, authority)
        for application, user in USERS.items():
            registrations = [row.registration for row in ROWS if row.application == application]
            stack.enter_context(smb_server(daemon, demux, *registrations, user=user))
            print(f"{application}: a server" + (f" of uid {user}" if os.geteuid() == 0 else "") + ",", *registrations)
        print(f"All of them on UDP port {demux.port}:")
        print(f"{'client':12}{'asked for':24}{'ALPN':8}{'served by':34}{'certificate':17}{'ms':>6}")
        right = await show(ASKS, demux.port, authority, certificates)
        return await _show_gtlsclient(demux.port, directory) and right


async def _show_gtlsclient(port: int, directory: Path) -> bool:
    if shutil.which("gtlsclient") is None:
        print("gtlsclient        (not installed; on Debian: apt-get install ngtcp2-client)")
        return True
    right = True
    for one in ASKS:
        if isinstance(one.expected, Row) and one.alpns == ("h3",):
            ok, seconds = await asyncio.to_thread(ask_with_gtlsclient, port, one, directory)
            _print_row("gtlsclient", one, one.expected.registration if ok else "failed", "-", seconds, ok)
            right = right and ok
    return right


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
    print("All rows are right." if right else "Some rows are WRONG.")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
