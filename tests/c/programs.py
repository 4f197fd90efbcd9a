"""The C programs of this directory: where they are and how they are run."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from handshaked.testing.fake_quic_endpoint import FakeQuicEndpoint
from tests.patience import PATIENCE
from tests.quic_socket_peers import Echoed, ask, in_thread

PROGRAMS = Path(__file__).parent
LIBRARY = PROGRAMS.parents[1] / "netlink"
NAME = "quic.example.com"
Run = Callable[..., str]


def run_server(run: Run, program: str, *arguments: object, **asked: object) -> tuple[str, Echoed]:
    """Have the program serve stock aioquic; return its output and what the client saw."""
    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        client = in_thread(lambda: asyncio.run(ask(port, **asked)))
        connection = endpoint.next_connection()
        with connection.agent:
            descriptor = connection.agent.fileno()
            printed = run(program, "server", descriptor, *arguments, descriptor=descriptor)
        return printed, client.result(PATIENCE)
