"""The cost of a handshake for a server, compared with aioquic.tls in the same run.

CPU time is that of the process, in microseconds, the median of interleaved rounds. Memory is that of a handshake that
waits for its credential, in bytes.
"""

import dataclasses
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic._buffer import Buffer  # aioquic.buffer re-exports it in no way mypy accepts
from cryptography import x509

from benchmarks._measure import report
from handshaked.events import CryptoData, Event, SessionTicket
from handshaked.model import CipherSuite, Group, KeyType, Level, SignatureScheme
from handshaked.tls.client import ClientHandshake
from handshaked.tls.key_exchange import answer_key_share, generate_key_share
from handshaked.tls.parameters import ClientParameters, ServerParameters, Tickets
from handshaked.tls.private_key import PrivateKeySigner
from handshaked.tls.server import ServerHandshake
from handshaked.tls.tickets import RotatingTicketKeys
from tests.tls.pair import NOW, client_parameters, credential, private_key, server_parameters

ROUNDS = 1500
WAITING = 300
SUITES = (CipherSuite.AES_128_GCM_SHA256,)
CLIENT = client_parameters(alpns=(b"h3",), groups=(Group.X25519,), cipher_suites=SUITES, compressions=())
SERVER = server_parameters(cipher_suites=SUITES, compressions=())
TICKETED = server_parameters(
    cipher_suites=SUITES,
    compressions=(),
    tickets=Tickets(RotatingTicketKeys([(NOW, bytes(32))])),
)
RSA = dataclasses.replace(TICKETED, credential=credential(KeyType.RSA))
EPOCHS = (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT)


def crypto(events: list[Event], level: Level) -> bytes:
    """Return the CRYPTO data of `level` in `events`."""
    return b"".join(each.data for each in events if isinstance(each, CryptoData) and each.level is level)


def ours(server: ServerParameters, client: ClientParameters = CLIENT) -> tuple[float, list[Event], list[Event]]:
    """Run a handshake. Return the CPU seconds of our server, its events, and the client's."""
    peer = ClientHandshake(client)
    hello = crypto(peer.start(NOW), Level.INITIAL)
    began = time.process_time()
    handshake = ServerHandshake()
    handshake.receive(Level.INITIAL, hello, NOW)
    events = handshake.proceed(server, NOW)
    spent = time.process_time() - began
    answer = peer.receive(Level.INITIAL, crypto(events, Level.INITIAL), NOW)
    answer += peer.receive(Level.HANDSHAKE, crypto(events, Level.HANDSHAKE), NOW)
    finished = crypto(answer, Level.HANDSHAKE)
    began = time.process_time()
    events += handshake.receive(Level.HANDSHAKE, finished, NOW)
    spent += time.process_time() - began
    if tickets := crypto(events, Level.APPLICATION):
        answer += peer.receive(Level.APPLICATION, tickets, NOW)
    assert handshake.complete  # noqa: S101  # a failed handshake would be fast
    return spent, events, answer


def key_exchange() -> float:
    """Return the CPU seconds of the server's X25519 key exchange, which resumed and full handshakes share."""
    share = generate_key_share(Group.X25519).public
    began = time.process_time()
    answer_key_share(Group.X25519, share)
    return time.process_time() - began


def signature() -> float:
    """Return the CPU seconds of the ECDSA P-256 signature of a full handshake."""
    signer, transcript_hash = PrivateKeySigner(private_key(credential())), bytes(32)
    began = time.process_time()
    signer.sign(SignatureScheme.ECDSA_SECP256R1_SHA256, transcript_hash, by_server=True)
    return time.process_time() - began


class AioquicServer:
    """aioquic's server, with its credential parsed only once, as in a process that serves many connections."""

    chain = x509.load_der_x509_certificate(credential().chain[0])

    def __init__(self) -> None:
        self.secrets = 0
        context = tls.Context(
            is_client=False, alpn_protocols=["h3"], cipher_suites=[tls.CipherSuite.AES_128_GCM_SHA256]
        )
        context.certificate = self.chain
        context.certificate_private_key = private_key(credential())  # type: ignore[assignment]  # declared more narrowly
        context.handshake_extensions = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, b"server-tp")]
        context.update_traffic_key_cb = self.count
        self.context = context

    def count(self, *secret: Any) -> None:
        """Accept a traffic secret, as a connection does."""
        self.secrets += 1

    def receive(self, data: bytes) -> list[bytes]:
        """Handle `data`. Return the output for each epoch."""
        buffers = {epoch: Buffer(capacity=4096) for epoch in EPOCHS}
        self.context.handle_message(data, buffers)
        return [buffers[epoch].data for epoch in EPOCHS]


def theirs() -> float:
    """Return the CPU seconds of aioquic's server for the same handshake with the same client."""
    peer = ClientHandshake(CLIENT)
    hello = crypto(peer.start(NOW), Level.INITIAL)
    began = time.process_time()
    handshake = AioquicServer()
    initial, flight, _ = handshake.receive(hello)
    spent = time.process_time() - began
    answer = peer.receive(Level.INITIAL, initial, NOW) + peer.receive(Level.HANDSHAKE, flight, NOW)
    finished = crypto(answer, Level.HANDSHAKE)
    began = time.process_time()
    handshake.receive(finished)
    spent += time.process_time() - began
    assert handshake.context.state is tls.State.SERVER_POST_HANDSHAKE  # noqa: S101  # see above
    return spent


def interleaved(*measures: Callable[[], float]) -> list[float]:
    """Return medians in microseconds. The measures are interleaved, so that other load affects all of them alike."""
    samples: list[list[float]] = [[] for _ in measures]
    gc.collect()
    for _ in range(ROUNDS):
        for measure, taken in zip(measures, samples, strict=True):
            taken.append(measure())
    return [statistics.median(taken) * 1e6 for taken in samples]


def waiting_bytes(make: Callable[[bytes], object]) -> float:
    """Return the bytes held by a handshake that has received the ClientHello and waits for its credential."""
    hellos = [crypto(ClientHandshake(CLIENT).start(NOW), Level.INITIAL) for _ in range(WAITING)]
    make(hellos[0])
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    held = [make(bytes(bytearray(hello))) for hello in hellos]
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / len(held)


def wait(hello: bytes) -> ServerHandshake:
    """Return a handshake that waits for its credential."""
    handshake = ServerHandshake()
    handshake.receive(Level.INITIAL, hello, NOW)
    return handshake


def main() -> None:
    """Run the benchmark."""
    _, _, answer = ours(TICKETED)
    state = next(each.state for each in answer if isinstance(each, SessionTicket))
    again = client_parameters(
        alpns=(b"h3",), groups=(Group.X25519,), cipher_suites=SUITES, compressions=(), session_ticket=state
    )
    full, aioquic_full, ticketed, resumed, rsa, x25519, ecdsa = interleaved(
        lambda: ours(SERVER)[0],
        theirs,
        lambda: ours(TICKETED)[0],
        lambda: ours(TICKETED, again)[0],
        lambda: ours(RSA)[0],
        key_exchange,
        signature,
    )
    report("server CPU, full handshake, ECDSA P-256 and X25519", full, "us", "aioquic.tls", aioquic_full)
    report("server CPU, full handshake with a ticket", ticketed, "us", "aioquic.tls without", aioquic_full)
    name = "server CPU, resumed handshake with a ticket"
    report(name, resumed, "us", "full handshake with a ticket, ECDSA P-256", ticketed)
    report(name, resumed, "us", "full handshake with a ticket, RSA-2048", rsa)
    report(name, resumed, "us", "aioquic.tls full", aioquic_full)
    # The primitives bound the ratio of a resumed handshake to a full one for any engine.
    report("server CPU, X25519 key and exchange", x25519, "us", "the same and an ECDSA P-256 signature", x25519 + ecdsa)
    report("memory of a waiting handshake", waiting_bytes(wait), "bytes", "limit", 32 * 1024)


if __name__ == "__main__":
    main()
