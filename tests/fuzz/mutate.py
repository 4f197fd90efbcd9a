"""Handshakes with one damaged message: they fail with an alert or wait for more bytes, and never complete.

    python -m tests.fuzz.mutate [COUNT [SEED]]

runs COUNT (default: a million) of them; any exception but HandshakeError ends the run and prints the seed.
"""

import collections
import itertools
import random
import sys
import time
from collections.abc import Callable, Sequence

from handshaked.errors import HandshakeError
from handshaked.events import CryptoData, Event, HandshakeComplete, SessionTicket
from handshaked.model import CipherSuite, ClientAuth, Group, KeyType, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientParameters, EarlyData, ServerParameters, Tickets
from handshaked.tls.psk import ExternalPsk
from handshaked.tls.server import ServerHandshake
from handshaked.tls.tickets import RotatingTicketKeys
from tests.tls.pair import NOW, client_parameters, credential, pair, server_parameters

Tamper = Callable[[int, CryptoData], bytes]


class Accepting:
    """A verifier and a replay guard that accept everything."""

    trust = b""

    def verify(self, chain: tuple[bytes, ...], *rest: object) -> None:
        return

    def first_use(self, ticket: bytes, issued: float, expires: float, now: float) -> bool:
        return True

    def find(self, identity: bytes) -> ExternalPsk | None:
        return PSK if identity == PSK.identity else None


PSK = ExternalPsk(b"identity", bytes(range(32)))
YES = Accepting()
TICKETS = Tickets(RotatingTicketKeys([(NOW - 100, bytes(range(32)))]))
ED25519 = credential(KeyType.ED25519)


class Scenario:
    """A handshake that completes unless a message is damaged."""

    def __init__(self, client: ClientParameters, server: ServerParameters, *, quic: bool = True) -> None:
        self.client = client
        self.server = server
        self.quic = quic
        self.messages = 0
        self.run(self._count)

    def _count(self, index: int, sent: CryptoData) -> bytes:
        self.messages = index + 1
        return sent.data

    def run(self, tamper: Tamper) -> bool:
        """Return whether both sides complete. `tamper` gets each message in turn and returns what is received."""
        client = ClientHandshake(self.client, quic=self.quic)
        server = ServerHandshake(quic=self.quic)
        counter = itertools.count()
        ended: set[object] = set()
        to_server = _crypto(client.start(NOW), client, ended)
        proceeded = False
        while to_server:
            to_client: list[CryptoData] = []
            for each in to_server:
                events = server.receive(each.level, tamper(next(counter), each), NOW)
                if server.client_hello is not None and not proceeded:
                    proceeded = True
                    events += server.proceed(self.server, NOW)
                to_client += _crypto(events, server, ended)
            to_server = []
            for each in to_client:
                events = client.receive(each.level, tamper(next(counter), each), NOW)
                to_server += _crypto(events, client, ended)
        return len(ended) == 2


def _crypto(events: list[Event], side: object, ended: set[object]) -> list[CryptoData]:
    if any(isinstance(each, HandshakeComplete) for each in events):
        ended.add(side)
    return [each for each in events if isinstance(each, CryptoData)]


def _ticket() -> bytes:
    server = server_parameters(credential=ED25519, tickets=TICKETS, early_data=EarlyData(YES))
    done = pair(client_parameters(verifier=YES), server).run()
    return next(each.state for each in done.client_events if isinstance(each, SessionTicket))


def scenarios() -> list[Scenario]:
    """Return handshakes that cover the features of the engine."""
    plain = server_parameters(credential=ED25519)
    authenticating = server_parameters(credential=ED25519, client_auth=ClientAuth.REQUIRE, client_verifier=YES)
    resuming = server_parameters(credential=ED25519, tickets=TICKETS, early_data=EarlyData(YES))
    state = _ticket()
    return [
        Scenario(client_parameters(), plain),
        Scenario(client_parameters(verifier=YES, credential=ED25519), authenticating),
        Scenario(client_parameters(), server_parameters(credential=credential(), groups=(Group.SECP256R1,))),
        Scenario(
            client_parameters(cipher_suites=(CipherSuite.AES_256_GCM_SHA384,), compressions=()),
            server_parameters(credential=ED25519, tickets=TICKETS),
        ),
        Scenario(client_parameters(session_ticket=state, verifier=YES), resuming),
        Scenario(client_parameters(session_ticket=state, early_data=True, psk=PSK, verifier=YES), resuming),
        Scenario(client_parameters(psk=PSK), server_parameters(credential=None, psks=YES)),
        Scenario(
            client_parameters(alpns=(), transport_parameters=None, record_size_limit=1000),
            server_parameters(credential=ED25519, alpn=None, transport_parameters=None, record_size_limit=2000),
            quic=False,
        ),
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to three changes; often with the message's length corrected, to reach the parsers."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change(damaged, rng)
    if len(damaged) >= 4 and rng.random() < 0.5:
        first = 4 + int.from_bytes(data[1:4])
        damaged[1:4] = max(0, first + len(damaged) - len(data) - 4).to_bytes(3)
    return bytes(damaged)


def change(data: bytearray, rng: random.Random) -> None:
    """Change `data` in one place."""
    at = rng.randrange(len(data)) if data else 0
    size = rng.choice((1, 1, 2, 4, 16, 200))
    match rng.randrange(7):
        case 0 if data:
            data[at] ^= 1 << rng.randrange(8)
        case 1 if data:
            data[at] = rng.choice((0, 1, 2, 255, rng.randrange(256)))
        case 2:
            del data[at : at + size]
        case 3:
            data[at:at] = rng.randbytes(size)
        case 4:
            data[at:at] = data[at : at + size]
        case 5:
            other = rng.randrange(len(data)) if data else 0
            data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
        case _:
            del data[at:]


def run(count: int, seed: int, among: Sequence[Scenario]) -> collections.Counter[str]:
    """Return how `count` damaged handshakes end, with counts."""
    endings: collections.Counter[str] = collections.Counter()
    for number in range(seed, seed + count):
        rng = random.Random(number)  # repeatable, not secret
        scenario = rng.choice(among)
        target = rng.randrange(scenario.messages)
        changed = False

        def tamper(index: int, sent: CryptoData) -> bytes:
            nonlocal changed
            if index != target:  # noqa: B023  # used in this iteration only
                return sent.data
            damaged = mutate(sent.data, rng)  # noqa: B023  # as above
            # Session tickets are authenticated by the keys of the connection only.
            changed = damaged != sent.data and sent.level is not Level.APPLICATION
            return damaged

        try:
            complete = scenario.run(tamper)
        except HandshakeError as error:
            endings[f"{type(error).__name__} {error.alert.label}"] += 1
        except BaseException:
            print(f"seed {number}", file=sys.stderr)
            raise
        else:
            if complete and changed:
                raise AssertionError(f"seed {number}: complete despite a damaged message")
            endings["complete, no handshake message was damaged" if complete else "waiting for more"] += 1
    return endings


def main() -> None:
    """Run as a script."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began = time.process_time()
    for ending, number in run(count, seed, scenarios()).most_common():
        print(f"{number:9} {ending}")
    print(f"{count} handshakes in {time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
