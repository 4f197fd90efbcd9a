"""An echo server with the framing of SMB over QUIC: a zero byte and three bytes of length ([MS-SMB2] section 2.1).

It prefixes each echoed message with the name of the connection's registration. Behind the demultiplexer it prints
``ready`` when it listens; without ``--demux`` it serves a port of its own and prints the port. As root it drops
privileges to ``--user`` and ``--group`` before it serves.
"""

import argparse
import asyncio
import os
from pathlib import Path

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived
from cryptography.hazmat.backends import openssl  # noqa: F401 - aioquic imports it late, when the user cannot read it any more

from handshaked.shim import HandshakeClient
from handshaked.shim.aioquic import listen, outcome_of, serve
from handshaked.testing.ports import free_port


def push_frame(payload: bytes) -> bytes:
    """Return `payload` in a frame."""
    return len(payload).to_bytes(4) + payload


def pull_frames(buffer: bytearray) -> list[bytes]:
    """Remove the complete frames from the start of `buffer` and return them. ValueError for an invalid frame."""
    frames = []
    while len(buffer) >= 4:
        if buffer[0]:
            raise ValueError("invalid frame: the first byte must be zero")
        end = 4 + int.from_bytes(buffer[1:4])
        if len(buffer) < end:
            break
        frames.append(bytes(buffer[4:end]))
        del buffer[:end]
    return frames


class SmbProtocol(QuicConnectionProtocol):
    """Echoes the frames of each stream."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type] # passed on unchanged
        self._buffers: dict[int, bytearray] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        """Echo the frames in stream data."""
        if not isinstance(event, StreamDataReceived) or event.stream_id & 2:  # unidirectional
            return
        buffer = self._buffers.setdefault(event.stream_id, bytearray())
        buffer += event.data
        outcome = outcome_of(self)
        name = (outcome.registration or "") if outcome is not None else ""
        try:
            frames = pull_frames(buffer)
        except ValueError as error:
            self.close(reason_phrase=str(error))
            return
        answer = b"".join(push_frame(f"{name}:".encode() + payload) for payload in frames)
        if answer or event.end_stream:
            self._quic.send_stream_data(event.stream_id, answer, event.end_stream)


async def run(
    daemon: Path,
    demux: Path | None,
    registrations: list[str],
    user: int | None,
    groups: list[int],
    create_protocol: type[QuicConnectionProtocol],
) -> None:
    """Serve `registrations` until cancelled; without `demux`, serve all that the user may use on an own port."""
    if user is not None:
        os.setgroups(groups)
        os.setgid(user)
        os.setuid(user)
    client = HandshakeClient(daemon)
    configuration = QuicConfiguration(is_client=False)
    if demux is None:
        port = free_port()
        await serve("127.0.0.1", port, configuration=configuration, client=client, create_protocol=create_protocol)
        print(port, flush=True)
        await asyncio.Event().wait()
    servers = [
        await listen(
            registration, configuration=configuration, client=client, path=demux, create_protocol=create_protocol
        )
        for registration in registrations
    ]
    print("ready", flush=True)
    await asyncio.Event().wait()
    for server in servers:
        server.close()


def main(create_protocol: type[QuicConnectionProtocol] = SmbProtocol) -> None:
    """Run the server in the foreground."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--daemon", type=Path, required=True)
    parser.add_argument("--demux", type=Path)
    parser.add_argument("--user", type=int)
    parser.add_argument("--group", type=int, action="append", default=[])
    parser.add_argument("registrations", nargs="*", metavar="REGISTRATION")
    arguments = parser.parse_args()
    asyncio.run(
        run(
            arguments.daemon,
            arguments.demux,
            arguments.registrations,
            arguments.user,
            arguments.group,
            create_protocol,
        )
    )


if __name__ == "__main__":
    main()
