"""CPU time per full handshake (ECDSA P-256, X25519): all processes of the daemon, and aioquic.tls in this process.

Both run the server's side of the same handshakes, interleaved; the client's side runs here and is not counted. One at
a time, each packet costs the daemon a sleep and a wake-up; with many in flight, as under load, it does not.
"""

import socket
import time
from pathlib import Path
from statistics import median

from aioquic import tls
from aioquic._buffer import Buffer  # aioquic.buffer re-exports it in no way mypy accepts
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from benchmarks._measure import report
from handshaked.events import CryptoData
from handshaked.model import Group, Level, Role
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientParameters
from handshaked.wire.family import pull_from_daemon, push_crypto, push_start
from handshaked.wire.messages import MAX_PACKET, Done, Start
from tests.run_name import public_temporary_directory

ROUNDS = 9
HANDSHAKES = 320
IN_FLIGHT = (1, 32)
_NAME = "bench.example.com"
_PARAMETERS = bytes.fromhex("01048000ea60040480100000")


def client_hello() -> tuple[ClientHandshake, bytes]:
    """Return a client and its ClientHello."""
    client = ClientHandshake(ClientParameters((b"h3",), _NAME, _PARAMETERS, verifier=None, groups=(Group.X25519,)))
    return client, b"".join(event.data for event in client.start(time.time()) if isinstance(event, CryptoData))


def finish(client: ClientHandshake, flight: list[CryptoData]) -> bytes:
    """Return the client's answer to the server's `flight`."""
    now = time.time()
    events = [event for piece in flight for event in client.receive(piece.level, piece.data, now)]
    return b"".join(event.data for event in events if isinstance(event, CryptoData))


def by_daemon(sock: socket.socket, first: int, in_flight: int) -> None:
    """Run `in_flight` concurrent handshakes, numbered from `first`, with the daemon; each takes four packets."""
    start = Start(Role.SERVER, transport_parameters=_PARAMETERS)
    clients = {}
    for sequence in range(first, first + in_flight):
        clients[sequence], hello = client_hello()
        sock.send(push_start(sequence, start) + push_crypto(sequence, CryptoData(Level.INITIAL, hello)))
    for sequence, client in clients.items():
        answer = list(pull_from_daemon(sock.recv(MAX_PACKET)))
        if {number for number, _ in answer} != {sequence}:
            raise RuntimeError("flights arrived out of order")
        flight = [message for _, message in answer if isinstance(message, CryptoData)]
        sock.send(push_crypto(sequence, CryptoData(Level.HANDSHAKE, finish(client, flight))))
    for _ in clients:
        done = [message for _, message in pull_from_daemon(sock.recv(MAX_PACKET)) if isinstance(message, Done)]
        if done[0].outcome.status != 0:
            raise RuntimeError(done[0].outcome.reason)


def by_aioquic(certificate: x509.Certificate, key: object) -> float:
    """Run one handshake with aioquic.tls. Return the CPU seconds of its server."""
    client, hello = client_hello()
    started = time.process_time()
    context = tls.Context(is_client=False, alpn_protocols=["h3"])
    context.certificate = certificate
    context.certificate_private_key = key  # type: ignore[assignment] # an ECDSA key, loaded below
    context.handshake_extensions = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, _PARAMETERS)]
    context.new_session_ticket_cb = lambda _: None  # issue a ticket, as the daemon does
    buffers = {epoch: Buffer(capacity=16384) for epoch in tls.Epoch}
    context.handle_message(hello, buffers)
    spent = time.process_time() - started
    flight = [
        CryptoData(Level.INITIAL, buffers[tls.Epoch.INITIAL].data),
        CryptoData(Level.HANDSHAKE, buffers[tls.Epoch.HANDSHAKE].data),
    ]
    finished = finish(client, flight)
    started = time.process_time()
    context.handle_message(finished, buffers)
    spent += time.process_time() - started
    if context.state is not tls.State.SERVER_POST_HANDSHAKE:
        raise RuntimeError("aioquic did not complete the handshake")
    return spent


def total_cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time that all threads of the processes `pids` have used so far."""
    threads = [path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def measure(daemon: RunningDaemon, issued: Issued, in_flight: int) -> None:
    """Measure both, interleaved, so that caches and other load affect them alike."""
    certificate = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
    key = load_pem_private_key(issued.key.read_bytes(), None)
    pids = [daemon.pid, *daemon.worker_pids()]
    ours: list[float] = []
    theirs: list[float] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(daemon.handshake_socket))
        for _ in range(0, HANDSHAKES, in_flight):  # warm up
            by_daemon(sock, 1, in_flight)
        for _ in range(ROUNDS):
            before = total_cpu_seconds(pids)
            spent = 0.0
            for _ in range(0, HANDSHAKES, in_flight):
                by_daemon(sock, 1, in_flight)
                spent += sum(by_aioquic(certificate, key) for _ in range(in_flight))
            ours.append((total_cpu_seconds(pids) - before) / HANDSHAKES)
            theirs.append(spent / HANDSHAKES)
    name = "daemon CPU per full handshake" + (f", {in_flight} in flight" if in_flight > 1 else "")
    report(name, median(ours) * 1e6, "us", "aioquic.tls in-process", median(theirs) * 1e6)


def main() -> None:
    """Run the benchmark."""
    with public_temporary_directory() as directory:
        issued = Authority(directory).issue(_NAME)
        with RunningDaemon(directory, log_level="info") as daemon:
            daemon.register("bench", (issued.certificate, issued.key), alpns=["h3"], server_names=[_NAME])
            for in_flight in IN_FLIGHT:
                measure(daemon, issued, in_flight)


if __name__ == "__main__":
    main()
