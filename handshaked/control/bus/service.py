"""The D-Bus service: its connection, the signals it sends, and who calls it.

Method calls are handled as messages, not with a library's service objects, which hide the caller. The bus daemon
identifies the caller, and its policy file decides what may be called at all; the manager authorizes the rest, and
polkit may allow what the manager denies. Key material is never sent over the bus: callers pass open files.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from handshaked import __version__
from handshaked.callers.closing import Closer
from handshaked.callers.owners import owner_of
from handshaked.control.bus import interface as spec
from handshaked.control.bus.calls import OBJECT_MANAGER, PROPERTIES, UNKNOWN_UID, Calls, check_size
from handshaked.control.bus.connection import BUS, BusError, Connection, Peer
from handshaked.control.bus.dispatch import Dispatcher
from handshaked.control.bus.interface import CallError
from handshaked.control.bus.marshalling import Variant
from handshaked.control.bus.messages import Flag, Kind, Message, Received
from handshaked.control.bus.objects import BusObjects
from handshaked.control.bus.packing import pack, pack_interfaces, pack_properties
from handshaked.control.bus.senders import Senders
from handshaked.control.bus.subscribers import BusSubscribers
from handshaked.control.commands import Commands
from handshaked.control.event_broker import Event, Subscription
from handshaked.control.manager import Manager
from handshaked.model import Caller
from handshaked.registry.snapshot import Snapshot

log = logging.getLogger(__name__)

OFF = "none"
RETRY_SECONDS = 15.0
_POLKIT = Peer(
    "org.freedesktop.PolicyKit1",
    "/org/freedesktop/PolicyKit1/Authority",
    "org.freedesktop.PolicyKit1.Authority",
)
_POLKIT_SECONDS = 300.0  # somebody may have to look for a password
_DO_NOT_QUEUE = 4
_OWNED = (1, 4)  # primary owner, already owner
_ROOT = Caller(0)
MAX_PENDING_FILES = 4096
"""Files that are not closed yet. Beyond this number the service reconnects, so that the bus lets nobody attach more."""


class BusService:
    """Serve the manager on the bus `address`: ``system``, ``session``, an address, or ``none``.

    ``state`` describes the connection, for ``handshakectl status``. `self_test` returns the self-test's state.
    """

    def __init__(
        self, address: str, commands: Commands, manager: Manager, self_test: Callable[[], str], closer: Closer
    ) -> None:
        self.state = "off" if address == OFF else "not connected yet"
        self._address = address
        self._manager = manager
        self._objects = BusObjects(
            manager,
            lambda: {
                "version": __version__,
                "registrations": sum(not one.internal for one in manager.snapshot.registrations),
                "self_test": self_test(),
            },
        )
        self._connection: Connection | None = None
        self._closer = closer
        self._subscribers = BusSubscribers(manager.events, self._send_outcome)
        dispatcher = Dispatcher(commands, self._objects, self._subscribers)
        self._calls = Calls(self._objects, dispatcher, self._authorized, self._send, closer)
        self._senders = Senders(self._caller, self._calls.accept, self._calls.refuse)
        manager.on_change.append(self._on_change)
        manager.events.subscribe(Subscription(_ROOT, None, self._on_events))

    async def run(self) -> None:
        """Stay connected to the bus, and reconnect when the connection is lost. The daemon works without a bus."""
        while self._address != OFF:
            files = self._accepts_files()
            try:
                connection = await self._connect(files=files)
            except (BusError, OSError) as error:
                self._set_state(f"no bus: {error or type(error).__name__}")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            reason = await self._stay(connection, files=files)
            self._senders.clear()
            self._subscribers.clear()
            self._connection = None
            self._set_state(f"no bus: {reason}")
            if files is self._accepts_files():
                await asyncio.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Disconnect from the bus."""
        if self._connection is not None:
            self._connection.close("the daemon ends")
            self._connection = None
        self._calls.cancel()

    def _accepts_files(self) -> bool:
        return self._closer.pending < MAX_PENDING_FILES

    async def _connect(self, *, files: bool) -> Connection:
        connection = await Connection.open(self._address, self._on_message, self._closer, files=files)
        try:
            rule = f"type='signal',sender='{BUS.name}',member='NameOwnerChanged',arg2=''"
            await connection.call(BUS, "AddMatch", "s", rule, results="")
            self._objects.begin(self._manager.snapshot)
            self._connection = connection
            [reply] = await connection.call(BUS, "RequestName", "su", spec.NAME, _DO_NOT_QUEUE, results="u")
            if reply not in _OWNED:
                raise BusError(f"the name {spec.NAME} is already owned by another process")
        except BaseException as error:  # raised again: even after a cancellation, the connection must not leak
            self._connection = None
            connection.close(str(error))
            raise
        self._set_state(f"on the bus as {spec.NAME}" + ("" if files else ", without files: too many are being closed"))
        return connection

    async def _stay(self, connection: Connection, *, files: bool) -> str:
        """Return why the connection was closed: here, if files can be accepted again."""
        closed = asyncio.ensure_future(connection.wait_closed())
        while not files and not self._accepts_files():
            await asyncio.wait({closed}, timeout=RETRY_SECONDS)
            if closed.done():
                break
        if not files and not closed.done():
            connection.close("files are accepted again")
        return await closed

    def _set_state(self, state: str) -> None:
        if state != self.state:
            log.log(logging.INFO if state.startswith("on") else logging.WARNING, "%s", state)
        self.state = state

    def _on_message(self, message: Received) -> None:
        if message.kind == Kind.METHOD_CALL:
            try:
                check_size(message)
            except CallError as error:
                self._calls.refuse(message, error)
            else:
                self._senders.receive(message)
        else:
            self._closer.close(UNKNOWN_UID, message.descriptors)
            if (message.kind, message.sender, message.member) == (Kind.SIGNAL, BUS.name, "NameOwnerChanged"):
                [name, _, _] = message.values("sss", 3)
                self._senders.remove(name)
                self._subscribers.remove(name)
        if message.descriptors and not self._accepts_files() and self._connection is not None:
            self._connection.close("too many files are being closed")

    def _send_outcome(self, destination: str, event: Event, left_out: int) -> None:
        self._signal(spec.PATH, spec.MANAGER, "HandshakeFinished", "a{sv}u", [pack(event), left_out], destination)

    def _on_events(self, events: list[Event]) -> None:
        for event in events:
            if event["type"] == "certificate":
                body = [event["registration"], event["subject"], event["not_after"]]
                self._signal(spec.PATH, spec.MANAGER, "CertificateExpiring", "ssd", body)

    def _on_change(self, snapshot: Snapshot) -> None:
        if self._connection is None:
            return
        added, removed, changed = self._objects.follow(snapshot)
        for path, interfaces in added.items():
            body = [path, pack_interfaces(interfaces)]
            self._signal(spec.PATH, OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}", body)
        for path in removed:
            self._signal(spec.PATH, OBJECT_MANAGER, "InterfacesRemoved", "oas", [path, [spec.REGISTRATION]])
        for path, properties in changed.items():
            body = [spec.REGISTRATION, pack_properties(properties), []]
            self._signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", body)
        if added or removed:
            own = self._objects.interfaces(spec.PATH)[spec.MANAGER]
            body = [spec.MANAGER, pack_properties({"Registrations": own["Registrations"]}), []]
            self._signal(spec.PATH, PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    def _signal(
        self, path: str, interface: str, member: str, signature: str, body: list[Any], destination: str | None = None
    ) -> None:
        self._send(Message(Kind.SIGNAL, destination, path, interface, member, signature=signature, body=body))

    def _send(self, message: Message) -> None:
        if self._connection is not None:
            self._connection.send(message)

    async def _caller(self, name: str) -> Caller:
        """Return the caller with the unique name `name`; BusError if there is none."""
        [credentials] = await self._call(BUS, "GetConnectionCredentials", "s", name, results="a{sv}")
        if "UnixUserID" not in credentials:
            raise BusError("the bus does not know the user of this name")
        uid = credentials["UnixUserID"]
        owner = owner_of(uid)
        return Caller(
            uid=uid,
            gids=frozenset(credentials.get("UnixGroupIDs", ())),
            pid=credentials.get("ProcessID", 0),
            owner=None if owner == uid else owner,
        )

    async def _authorized(self, message: Received, action: str, details: dict[str, str]) -> bool:
        """Return whether polkit allows `action` to the sender. Without polkit, the manager's denial stands."""
        subject = ["system-bus-name", {"name": Variant("s", message.sender)}]
        interactive = 1 if message.flags & Flag.ALLOW_INTERACTIVE_AUTHORIZATION else 0
        asked = (subject, action, details, interactive, "")
        try:
            [answer] = await self._call(
                _POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us", *asked, results="(bba{ss})", seconds=_POLKIT_SECONDS
            )
        except BusError as error:
            log.debug("polkit does not answer: %s", error)
            return False
        return bool(answer[0])

    async def _call(self, peer: Peer, member: str, signature: str, *body: Any, **options: Any) -> list[Any]:
        if self._connection is None:
            raise BusError("not connected to the bus")
        return await self._connection.call(peer, member, signature, *body, **options)
