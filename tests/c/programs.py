"""The C programs of this directory: where they are and how they are run."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from handshaked.testing.quic_endpoint import KernelLikeEndpoint
from tests.patience import PATIENCE
from tests.quic_sockets import Echoed, ask, in_thread

PROGRAMS = Path(__file__).parent
LIBRARY = PROGRAMS.parents[1] / "netlink"
NAME = "quic.example.com"
Run = Callable[..., str]


def run_server(run: Run, program: str, *arguments: object, **asked: object) -> tuple[str, Echoed]:
    """Have the program serve stock aioquic; return its output and what the client saw."""
    with KernelLikeEndpoint() as endpoint:
        port = endpoint.listen()
        client = in_thread(lambda: asyncio.run(ask(port, **asked)))
        connection = endpoint.next_connection()
        with connection.agent:
            descriptor = connection.agent.fileno()
            printed = run(program, "server", descriptor, *arguments, descriptor=descriptor)
        return printed, client.result(PATIENCE)
