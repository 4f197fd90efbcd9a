"""A control socket whose answers come from the test."""

import asyncio
import json
import socket


async def answer(control: socket.socket, **content: object) -> None:
    """Answer the first request of the next connection."""
    loop = asyncio.get_running_loop()
    sock, _ = await loop.sock_accept(control)
    with sock:
        await loop.sock_recv(sock, 1000)
        await loop.sock_sendall(sock, json.dumps(content).encode())
