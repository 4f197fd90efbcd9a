"""Follow the daemon's registrations over its control socket. While it is not running, the last ones stay in effect."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from handshaked.errors import RefusedError
from handshaked.registry.registration import Access, Registration
from handshaked.registry.settings import POLICY, Policy
from handshaked.registry.snapshot import Snapshot
from handshaked.system.connecting import connect
from handshaked.system.readiness import readable
from handshaked.wire.json_packets import Message, receive_message, send_message

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 60.0
_FIRST_BACKOFF = 0.05
_LONGEST_BACKOFF = 1.0


class RegistryFollower:
    """Calls `on_snapshot` with each new snapshot of the daemon whose control socket is at `path`."""

    def __init__(self, path: Path, on_snapshot: Callable[[Snapshot], None]) -> None:
        self._path = path
        self._on_snapshot = on_snapshot
        self._name = os.urandom(8).hex()
        self.connected = False

    async def run(self) -> None:
        """Follow until cancelled, reconnecting with back-off. The first failure in a row is logged."""
        backoff = _FIRST_BACKOFF
        failure_logged = False
        while True:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
                    connect(sock, self._path)
                    async for snapshot in self._snapshots(sock):
                        if failure_logged:
                            log.info("following the registrations of %s again", self._path)
                        backoff, failure_logged = _FIRST_BACKOFF, False
                        self.connected = True
                        self._on_snapshot(snapshot)
            except (OSError, RefusedError) as error:
                if not failure_logged and (self.connected or backoff >= _LONGEST_BACKOFF):
                    failure_logged = True
                    log.warning("cannot follow the registrations of %s: %s", self._path, error)
            self.connected = False
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF)

    async def _snapshots(self, sock: socket.socket) -> AsyncIterator[Snapshot]:
        while True:
            snapshot: Snapshot | None = await self._load(sock)
            while snapshot is not None:
                yield snapshot
                answer = await self._ask(sock, generation=snapshot.generation)
                if answer["generation"] is None:
                    snapshot = None
                elif answer["generation"] != snapshot.generation:
                    changed = map(_registration, answer["registrations"])
                    snapshot = snapshot.with_changes(changed, answer["removed"], answer["generation"])

    async def _load(self, sock: socket.socket) -> Snapshot:
        """Load all registrations page by page, starting over if they change meanwhile."""
        found: list[Registration] = []
        generation = None
        while True:
            answer = await self._ask(sock, after=found[-1].id if found else 0)
            if generation not in (None, answer["generation"]):
                found, generation = [], None
                continue
            generation = answer["generation"]
            found += map(_registration, answer["registrations"])
            if not answer["more"]:
                return Snapshot(found, generation)

    async def _ask(self, sock: socket.socket, **arguments: int) -> Message:
        send_message(sock, {"command": "follow", "follower": self._name, **arguments})
        async with asyncio.timeout(_ANSWER_SECONDS):
            await readable(sock, "the daemon")
        received = receive_message(sock)
        if received is None:
            raise RefusedError("the daemon closed the connection")
        if "error" in received[0]:
            raise RefusedError(str(received[0]["error"]))
        answer: Message = received[0]["result"]
        return answer


def _registration(shown: Message) -> Registration:
    return Registration(
        id=shown["id"],
        name=shown["name"],
        owner=shown["owner"],
        server_names=tuple(shown["server_names"]),
        alpns=tuple(map(bytes.fromhex, shown["alpns"])),
        credentials=(),
        access=Access(frozenset(shown["uids"]), frozenset(shown["gids"]), shown["kernel"]),
        policy=Policy(**{one.name: one.type.pull(one.name, shown[one.name]) for one in POLICY if one.name in shown}),
    )
