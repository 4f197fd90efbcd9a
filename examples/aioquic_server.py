"""An aioquic echo server whose TLS is in the daemon: aioquic_server.py PORT ALPN.

It serves every registration that its user may use, with the certificate registered for the client's server name and the
protocol.
"""

import asyncio
import signal
import sys

from aioquic.quic.configuration import QuicConfiguration

from handshaked.shim import HandshakeClient
from handshaked.shim.aioquic import serve


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back everything that arrives on a stream."""
    writer.write(await reader.read())
    writer.write_eof()


async def run(port: int, alpn: str) -> None:
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
    server = await serve(
        "127.0.0.1",
        port,
        configuration=QuicConfiguration(is_client=False, alpn_protocols=[alpn]),
        client=client,
        stream_handler=on_stream,
    )
    print("listening on port", port, flush=True)
    try:
        await stopped.wait()
    finally:
        server.close()
        client.close()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), sys.argv[2]))
