"""A QUIC echo server with TLS by the daemon; it prefixes each stream with the name of the registration.

Prints its port when it is ready. As root it drops privileges to ``--user`` and ``--group`` before it serves.
"""

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived
from cryptography.hazmat.backends import openssl  # noqa: F401 - aioquic imports it late, when the user cannot read it any more

from handshaked.shim import HandshakeClient
from handshaked.shim.aioquic import outcome_of, serve
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.processes import ending


class EchoProtocol(QuicConnectionProtocol):
    """Answers each stream with the registration's name, a colon, and the stream's data."""

    def quic_event_received(self, event: QuicEvent) -> None:
        """Echo stream data."""
        if not isinstance(event, StreamDataReceived) or event.stream_id & 2:  # unidirectional
            return
        outcome = outcome_of(self)
        name = (outcome.registration or "") if outcome is not None else ""
        self._quic.send_stream_data(event.stream_id, f"{name}:".encode() + event.data, event.end_stream)


async def run(socket_path: Path, port: int, user: int | None, groups: list[int]) -> None:
    """Serve on `port` of loopback (0: any free port) until cancelled."""
    if user is not None:
        os.setgroups(groups)
        os.setgid(user)
        os.setuid(user)
    configuration = QuicConfiguration(is_client=False)
    server = await serve(
        "127.0.0.1",
        port,
        configuration=configuration,
        client=HandshakeClient(socket_path),
        create_protocol=EchoProtocol,
    )
    transport = server._transport  # noqa: SLF001 - aioquic has no public access to a server's address
    if transport is not None:
        print(transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def echo_server(daemon: RunningDaemon, user: int | None = None, groups: tuple[int, ...] = ()) -> Iterator[int]:
    """Run an echo server and yield its port. As root it runs as `user`."""
    command = [sys.executable, "-m", "handshaked.testing.echo_server", f"--socket={daemon.handshake_socket}"]
    if user is not None and os.geteuid() == 0:
        command += [f"--user={user}", *(f"--group={group}" for group in groups)]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:  # noqa: S603 - our own program
        try:
            if process.stdout is None:
                raise RuntimeError("no output to read the port from")
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def main() -> None:
    """Run the server in the foreground."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", type=int)
    parser.add_argument("--group", type=int, action="append", default=[])
    arguments = parser.parse_args()
    asyncio.run(run(arguments.socket, arguments.port, arguments.user, arguments.group))


if __name__ == "__main__":
    main()
