"""The D-Bus service. This is the only module that imports dbus-next.

Method calls are handled as messages, not with dbus-next's service objects, which hide the caller. The bus daemon
identifies the caller, and its policy file decides what may be called at all; the manager authorizes the rest, and
polkit may allow what the manager denies. Key material is never sent over the bus: callers pass open files.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType, NameFlag, RequestNameReply
from dbus_next.errors import AuthError, DBusError, InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import Variant

from handshaked import __version__
from handshaked.callers.closing import Closer
from handshaked.control.bus import interface as spec
from handshaked.control.bus.call_limits import CallLimits
from handshaked.control.bus.dispatch import Call, Dispatcher
from handshaked.control.bus.interface import CallError
from handshaked.control.bus.objects import BusObjects, Interfaces, Properties
from handshaked.control.bus.subscribers import BusSubscribers
from handshaked.control.commands import Commands
from handshaked.control.event_broker import Event, Subscription
from handshaked.control.manager import Manager
from handshaked.errors import DeniedError, HandshakedError
from handshaked.model import Caller
from handshaked.registry.snapshot import Snapshot
from handshaked.system.tasks import Tasks

log = logging.getLogger(__name__)

OFF = "none"
_RETRY_SECONDS = 15.0
_MAX_TASKS = 512  # including calls whose caller is not known yet
_MAX_OBJECTS = 5000
_MAX_KNOWN_CALLERS = 256
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_POLKIT = (
    "org.freedesktop.PolicyKit1",
    "/org/freedesktop/PolicyKit1/Authority",
    "org.freedesktop.PolicyKit1.Authority",
)
_INTROSPECTABLE, _PROPERTIES, _OBJECT_MANAGER = (
    f"org.freedesktop.DBus.{name}" for name in ("Introspectable", "Properties", "ObjectManager")
)
_ERROR = "org.freedesktop.DBus.Error"
_ROOT = Caller(0)
_CONNECTION_ERRORS = (OSError, EOFError, AuthError, DBusError, InvalidAddressError)


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
        self._bus: MessageBus | None = None
        self._callers: OrderedDict[str, Caller] = OrderedDict()
        self._subscribers = BusSubscribers(manager.events, self._send_outcome)
        self._dispatcher = Dispatcher(commands, self._objects, self._subscribers)
        self._tasks = Tasks("the bus")
        self._closer = closer
        self._limits = CallLimits()
        manager.on_change.append(self._on_change)
        manager.events.subscribe(Subscription(_ROOT, None, self._on_events))

    async def run(self) -> None:
        """Stay connected to the bus, and reconnect when the connection is lost. The daemon works without a bus."""
        while self._address != OFF:
            try:
                await self._connect()
            except _CONNECTION_ERRORS as error:
                self._set_state(f"no bus: {error or type(error).__name__}")
            else:
                await self._wait_for_disconnect()
            await asyncio.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """Disconnect from the bus."""
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None
        self._tasks.cancel()

    async def _connect(self) -> None:
        known = {"system": BusType.SYSTEM, "session": BusType.SESSION}.get(self._address)
        bus = (
            MessageBus(bus_address=self._address, negotiate_unix_fd=True)
            if known is None
            else MessageBus(bus_type=known, negotiate_unix_fd=True)
        )
        await bus.connect()
        self._bus = bus
        bus.add_message_handler(self._on_message)
        rule = f"type='signal',sender='{_BUS[0]}',member='NameOwnerChanged',arg2=''"
        await self._call(_BUS, "AddMatch", "s", rule)
        self._objects.begin(self._manager.snapshot)
        reply = await bus.request_name(spec.NAME, NameFlag.DO_NOT_QUEUE)
        if reply not in (RequestNameReply.PRIMARY_OWNER, RequestNameReply.ALREADY_OWNER):
            bus.disconnect()
            self._bus = None
            raise OSError(f"the name {spec.NAME} is already owned by another process")
        self._set_state(f"on the bus as {spec.NAME}")

    async def _wait_for_disconnect(self) -> None:
        bus = self._bus
        try:
            if bus is not None:
                await bus.wait_for_disconnect()
        except _CONNECTION_ERRORS as error:
            log.debug("bus: %s", error)
        self._subscribers.clear()
        self._callers.clear()
        self._bus = None
        self._set_state("no bus: the connection was lost")

    def _set_state(self, state: str) -> None:
        if state != self.state:
            log.log(logging.INFO if state.startswith("on") else logging.WARNING, "%s", state)
        self.state = state

    def _on_message(self, message: Message) -> bool:
        """Handle `message`; return whether it is ours, as all method calls are."""
        if message.message_type is not MessageType.METHOD_CALL:
            if message.sender == _BUS[0] and message.member == "NameOwnerChanged":
                self._subscribers.remove(message.body[0])
                self._callers.pop(message.body[0], None)
            self._closer.close(message.sender, message.unix_fds)
            return False
        if len(self._tasks) >= _MAX_TASKS:
            self._closer.close(message.sender, message.unix_fds)
            self._send(Message.new_error(message, f"{_ERROR}.LimitsExceeded", "too many calls in progress"))
        else:
            self._tasks.start(self._serve(message))
        return True

    async def _serve(self, message: Message) -> None:
        """Reply to `message` in any case. A call counts against its user's limit until its files are closed."""
        reply = Message.new_error(message, f"{_ERROR}.Failed", "internal error: see the daemon's log")
        caller = None
        try:
            found = await self._caller(message.sender)
            self._limits.acquire(found)
            caller = found
            reply = await self._answer(message, caller)
        except DeniedError as error:
            reply = Message.new_error(message, f"{_ERROR}.AccessDenied", str(error))
        except CallError as error:
            reply = Message.new_error(message, f"{_ERROR}.{error.kind}", str(error))
        except (HandshakedError, OSError, DBusError) as error:
            reply = Message.new_error(message, spec.REFUSED, str(error))
        finally:
            closed = self._closer.close(message.sender, message.unix_fds)
            if caller is not None:
                closed.add_done_callback(lambda _: self._limits.release(caller))
            if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
                self._send(reply)

    async def _answer(self, message: Message, caller: Caller) -> Message:
        if message.interface == "org.freedesktop.DBus.Peer" and message.member == "Ping":
            return Message.new_method_return(message)
        if not self._objects.knows(message.path, caller):
            raise CallError("UnknownObject", f"no object {message.path}")
        if message.interface == _INTROSPECTABLE and message.member == "Introspect":
            return Message.new_method_return(message, "s", [self._objects.introspect(message.path, caller)])
        if message.interface == _PROPERTIES:
            return self._properties(message)
        if message.interface == _OBJECT_MANAGER and message.path == spec.PATH:
            if self._objects.visible(caller) > _MAX_OBJECTS:  # more than fits into a message of the bus
                raise CallError("LimitsExceeded", f"more than {_MAX_OBJECTS} objects: use handshakectl list")
            objects = {path: _packed(found) for path, found in self._objects.managed(caller).items()}
            return Message.new_method_return(message, "a{oa{sa{sv}}}", [objects])
        return await self._invoke(message, caller)

    def _properties(self, message: Message) -> Message:
        if (message.member, message.signature) not in (("GetAll", "s"), ("Get", "ss"), ("Set", "ssv")):
            raise CallError("UnknownMethod", f"no method {message.member}({message.signature})")
        interface, *asked = message.body
        found = self._objects.interfaces(message.path).get(interface, {})
        if message.member == "Set":
            raise CallError("PropertyReadOnly", "properties are read-only: use the methods to change a registration")
        if message.member == "GetAll":
            return Message.new_method_return(message, "a{sv}", [_pack_properties(found)])
        [name] = asked
        if name not in found:
            raise CallError("UnknownProperty", f"no property {name}")
        return Message.new_method_return(message, "v", [_pack_properties(found)[name]])

    async def _invoke(self, message: Message, caller: Caller) -> Message:
        interface = self._objects.interface(message.path)
        method = interface.method(message.member) if message.interface in (interface.name, None, "") else None
        if method is None or method.signature != message.signature:
            raise CallError("UnknownMethod", f"no method {message.member}({message.signature})")
        call = Call(message.path, message.sender, _plain(message.body), message.unix_fds)
        try:
            results = await self._dispatcher.run(method, call, caller)
        except DeniedError:
            if method.action is None or not await self._authorized(message, method.action):
                raise
            results = await self._dispatcher.run(method, call, replace(caller, authorized=True))
        packed = [_pack_as(signature, result) for (_, signature), result in zip(method.results, results, strict=True)]
        return Message.new_method_return(message, method.reply_signature, packed)

    def _send_outcome(self, destination: str, event: Event, left_out: int) -> None:
        self._signal(spec.PATH, spec.MANAGER, "HandshakeFinished", "a{sv}u", [_pack(event), left_out], destination)

    def _on_events(self, events: list[Event]) -> None:
        for event in events:
            if event["type"] == "certificate":
                body = [event["registration"], event["subject"], event["not_after"]]
                self._signal(spec.PATH, spec.MANAGER, "CertificateExpiring", "ssd", body)

    def _on_change(self, snapshot: Snapshot) -> None:
        if self._bus is None:
            return
        added, removed, changed = self._objects.follow(snapshot)
        for path, interfaces in added.items():
            self._signal(spec.PATH, _OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}", [path, _packed(interfaces)])
        for path in removed:
            self._signal(spec.PATH, _OBJECT_MANAGER, "InterfacesRemoved", "oas", [path, [spec.REGISTRATION]])
        for path, properties in changed.items():
            body = [spec.REGISTRATION, _pack_properties(properties), []]
            self._signal(path, _PROPERTIES, "PropertiesChanged", "sa{sv}as", body)
        if added or removed:
            own = self._objects.interfaces(spec.PATH)[spec.MANAGER]
            body = [spec.MANAGER, _pack_properties({"Registrations": own["Registrations"]}), []]
            self._signal(spec.PATH, _PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    def _signal(
        self, path: str, interface: str, member: str, signature: str, body: list[Any], destination: str | None = None
    ) -> None:
        message = Message.new_signal(path, interface, member, signature, body)
        if destination is not None:
            message.destination = destination
        self._send(message)

    def _send(self, message: Message) -> None:
        if self._bus is not None:
            self._bus.send(message)

    async def _caller(self, name: str) -> Caller:
        """Return the caller with the unique name `name`. The bus never reuses unique names, so it can be cached."""
        caller = self._callers.get(name)
        if caller is None:
            [found] = await self._call(_BUS, "GetConnectionCredentials", "s", name)
            credentials = {key: variant.value for key, variant in found.items()}
            caller = self._callers[name] = Caller(
                uid=credentials["UnixUserID"],
                gids=frozenset(credentials.get("UnixGroupIDs", ())),
                pid=credentials.get("ProcessID", 0),
            )
            while len(self._callers) > _MAX_KNOWN_CALLERS:
                self._callers.popitem(last=False)
        return caller

    async def _authorized(self, message: Message, action: str) -> bool:
        """Return whether polkit allows `action` to the sender. Without polkit, the manager's denial stands."""
        subject = ["system-bus-name", {"name": Variant("s", message.sender)}]
        interactive = 1 if message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION else 0
        try:
            [answer] = await self._call(
                _POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us", subject, action, {}, interactive, ""
            )
        except (DBusError, OSError) as error:
            log.debug("polkit does not answer: %s", error)
            return False
        return bool(answer[0])

    async def _call(self, where: tuple[str, str, str], member: str, signature: str, *body: Any) -> list[Any]:
        bus = self._bus
        if bus is None:
            raise OSError("not connected to the bus")
        reply = await bus.call(Message(*where, member, signature=signature, body=list(body)))
        if reply is None or reply.message_type is MessageType.ERROR:
            raise DBusError(reply.error_name if reply else f"{_ERROR}.NoReply", str(reply.body[0] if reply else ""))
        return list(reply.body)


def _packed(interfaces: Interfaces) -> dict[str, dict[str, Variant]]:
    return {name: _pack_properties(properties) for name, properties in interfaces.items()}


def _pack_properties(properties: Properties) -> dict[str, Variant]:
    return {name: Variant(signature, _pack_as(signature, value)) for name, (signature, value) in properties.items()}


def _pack_as(signature: str, value: Any) -> Any:
    """Return `value` as dbus-next wants a value of type `signature`."""
    if signature == "aa{sv}":
        return [_pack(one) for one in value]
    return _pack(value) if signature == "a{sv}" else value


def _pack(values: dict[str, Any]) -> dict[str, Variant]:
    """Return `values` as variants, without those that are None: D-Bus has no null."""
    return {name: _variant(value) for name, value in values.items() if value is not None}


def _variant(value: Any) -> Variant:
    if isinstance(value, bool):
        return Variant("b", value)
    if isinstance(value, int | float):
        return Variant("x" if isinstance(value, int) else "d", value)
    if isinstance(value, dict):
        return Variant("a{sv}", _pack(value))
    if isinstance(value, list):
        first = value[0] if value else ""
        if isinstance(first, dict):
            return Variant("aa{sv}", [_pack(one) for one in value])
        return Variant("as" if isinstance(first, str) else "ax", value)
    return Variant("s", str(value))


def _plain(value: Any) -> Any:
    """Return `value` without variants."""
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value
