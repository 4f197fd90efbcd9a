"""An aioquic client whose TLS is in the daemon: aioquic_client.py PORT SERVER_NAME ALPN ROOT TEXT.

It connects to a port of this host, has TEXT echoed, and prints the echo. ROOT is a PEM file with trust anchors; without
`cafile` the daemon's trust store would apply.
"""

import asyncio
import sys

from aioquic.quic.configuration import QuicConfiguration

from handshaked.shim import HandshakeClient
from handshaked.shim.aioquic import connect, outcome_of


async def run(port: int, server_name: str, alpn: str, root: str, text: str) -> None:
    """Connect and print the echo of `text`."""
    client = HandshakeClient()
    configuration = QuicConfiguration(is_client=True, alpn_protocols=[alpn], server_name=server_name, cafile=root)
    try:
        async with connect("127.0.0.1", port, configuration=configuration, client=client) as connection:
            outcome = outcome_of(connection)
            if outcome is not None:
                print(len(outcome.peer_certificates), "certificate(s) verified")
            reader, writer = await connection.create_stream()
            writer.write(text.encode())
            writer.write_eof()
            print((await reader.read()).decode())
    finally:
        client.close()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), *sys.argv[2:]))
