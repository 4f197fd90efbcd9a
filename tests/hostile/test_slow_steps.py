"""Messages that made a worker work for long without interruption: an honest caller of another uid hardly notices."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from cryptography import x509

from handshaked.errors import Alert
from handshaked.events import CryptoData, Event
from handshaked.model import KeyType, Role
from handshaked.shim import BlockingClient
from handshaked.system import directories
from handshaked.testing.daemon import RunningDaemon
from handshaked.tls.parameters import Credential, ServerParameters
from handshaked.tls.private_key import PrivateKeySigner
from handshaked.tls.server import ServerHandshake
from handshaked.wire.messages import Done, Lookup, Start
from tests.certificates import Issued, authority, issue, names, root
from tests.hostile.honest import Attack, compare, honest_handshakes
from tests.quic.initials import initial

pytestmark = pytest.mark.needs("root", "public python")

CONNECTIONS = 8
PARAMETERS = b"\x04\x01\x00"
SERVER = "a.example"


def repeat(directory: Path, underway: Callable[[], None], ask: Callable[[BlockingClient], object]) -> None:
    """Call `ask` on several connections, which both workers accept, without end."""

    def run(channel: BlockingClient) -> None:
        while True:
            ask(channel)

    channels = [BlockingClient(directory / "run" / directories.HANDSHAKE_SOCKET) for _ in range(CONNECTIONS)]
    for channel in channels:
        ask(channel)
    underway()
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        wait([threads.submit(run, channel) for channel in channels], return_when=FIRST_EXCEPTION)


def look_up(directory: Path, underway: Callable[[], None], lookup: Lookup, status: int) -> None:
    def ask(channel: BlockingClient) -> None:
        assert channel.look_up(lookup).status == status

    repeat(directory, underway, ask)


def look_up_frames(directory: Path, underway: Callable[[], None]) -> None:
    """Look up one packet of 64,000 PINGs."""
    look_up(directory, underway, Lookup(datagrams=(initial(b"\1" * 64_000),)), Alert.DECODE_ERROR.errno)


def look_up_packets(directory: Path, underway: Callable[[], None]) -> None:
    """Look up as many small datagrams as a message may have, each with packets of its own key that do not open."""
    packet = b"\xc0\0\0\0\1\x08%08d\0\0\x40\x20" + bytes(32)
    datagrams = tuple(packet % n * 4 for n in range(250))
    look_up(directory, underway, Lookup(datagrams=datagrams), Alert.DECODE_ERROR.errno)


def look_up_protocols(directory: Path, underway: Callable[[], None]) -> None:
    """Look up a ClientHello of 31,000 protocols."""
    alpns = b"\1a" * 31_000
    extension = (16).to_bytes(2) + (len(alpns) + 2).to_bytes(2) + len(alpns).to_bytes(2) + alpns
    body = b"\3\3" + bytes(32) + b"\0\0\2\x13\1\1\0" + len(extension).to_bytes(2) + extension
    hello = b"\1" + len(body).to_bytes(3) + body
    look_up(directory, underway, Lookup(client_hello=hello), Alert.PROTOCOL_VERSION.errno)


def serve_names(directory: Path, underway: Callable[[], None]) -> None:
    """Have clients verify a certificate with 2,000 names, whose authority has 1,000 name constraints."""
    top = root()
    subtrees = [x509.DNSName("example"), *(x509.DNSName(f"{n}.test") for n in range(1000))]
    middle = issue("middle", top, authority(), x509.NameConstraints(subtrees, None), number=101)
    leaf = issue("leaf", middle, names(SERVER, *(f"{n}.example" for n in range(2000))))
    serve(directory, underway, [top], leaf, middle)


def serve_maze(directory: Path, underway: Callable[[], None]) -> None:
    """Have clients verify certificates that issue each other, below many trust anchors of the same name."""
    anchors = [issue("anchor", None, authority(), kind="p384", number=n) for n in range(20)]
    one = issue("one", anchors[0], authority(), kind="p384", number=30)
    other = issue("other", anchors[0], authority(), kind="p384", number=31)
    ring = [issue("one", other, authority(), kind="p384", number=30, serial=n) for n in range(1, 5)]
    ring += [issue("other", one, authority(), kind="p384", number=31, serial=n) for n in range(5, 9)]
    serve(directory, underway, anchors, issue("leaf", one, names("b.example")), *ring)


def serve(directory: Path, underway: Callable[[], None], anchors: list[Issued], leaf: Issued, *others: Issued) -> None:
    """Serve the daemon's clients, which trust `anchors`, with a chain that takes long to verify."""
    credential = Credential(tuple(one.der for one in (leaf, *others)), PrivateKeySigner(leaf.key), KeyType.ECDSA_P256)
    parameters = ServerParameters(credential=credential, alpn=b"h3", transport_parameters=PARAMETERS)
    start = Start(
        role=Role.CLIENT,
        server_name=SERVER,
        alpns=(b"h3",),
        transport_parameters=PARAMETERS,
        trust_anchors=tuple(anchor.der for anchor in anchors),
    )

    def ask(channel: BlockingClient) -> None:
        engine = ServerHandshake()
        flight: list[Event] = []
        for message in channel.start(start):
            if isinstance(message, CryptoData):
                flight += engine.receive(message.level, message.data, time.time())
        flight += engine.proceed(parameters, time.time())
        data = [event for event in flight if isinstance(event, CryptoData)]
        done = [answer for event in data for answer in channel.receive(event.level, event.data)][-1]
        assert isinstance(done, Done)
        assert done.outcome.alert is Alert.BAD_CERTIFICATE, done

    repeat(directory, underway, ask)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [look_up_frames, look_up_packets, look_up_protocols, serve_names, serve_maze],
    ids=lambda one: one.__name__,
)
def test_message_that_takes_long_does_not_delay_others(hostile_daemon: RunningDaemon, attack: Attack) -> None:
    compare(hostile_daemon.directory, honest_handshakes, attack).check()
