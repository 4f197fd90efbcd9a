"""An aioquic echo server on a port shared by handshaked-demux: shared_port_server.py REGISTRATION.

The demultiplexer passes it the connections for the registration's server names and protocols. The socket of the
demultiplexer is in HANDSHAKED_DEMUX_DIRECTORY (default: /run/handshaked-demux).
"""

import asyncio
import signal
import sys

from aioquic.quic.configuration import QuicConfiguration

from handshaked.shim import HandshakeClient
from handshaked.shim.aioquic import listen


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back everything that arrives on a stream."""
    writer.write(await reader.read())
    writer.write_eof()


async def run(registration: str) -> None:
    """Serve until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    tasks: set[asyncio.Task[None]] = set()

    def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(echo(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    client = HandshakeClient()
    try:
        server = await listen(
            registration,
            configuration=QuicConfiguration(is_client=False),
            client=client,
            stream_handler=on_stream,
        )
    except OSError as error:
        sys.exit(f"cannot listen for {registration}: {error.strerror}")
    print("listening for", registration, flush=True)
    try:
        await stopped.wait()
    finally:
        server.close()
        client.close()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
