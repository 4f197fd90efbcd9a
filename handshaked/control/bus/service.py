"""The bus as a way to the manager. The one module that speaks to dbus-next.

Calls are handled as messages, not by dbus-next's service objects: those do not tell who calls. The bus daemon does, and
its policy file decides what may be called at all; the manager decides the rest, and polkit, if there is one, may allow
what it denies. Key material does not cross the bus: files do, opened by the caller.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType, NameFlag, RequestNameReply
from dbus_next.errors import AuthError, DBusError, InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import Variant

from handshaked import __version__
from handshaked.callers.threads import close_in_thread
from handshaked.control.bus import interface as spec
from handshaked.control.bus.objects import BusObjects, Interfaces, Properties
from handshaked.control.bus.subscribers import BusSubscribers
from handshaked.control.commands import Commands
from handshaked.control.event_broker import Event, Subscription
from handshaked.control.manager import Manager, pull_filter
from handshaked.control.requests.arguments import Arguments
from handshaked.control.requests.permissions import is_administrator
from handshaked.errors import DeniedError, HandshakedError, RefusedError
from handshaked.model import Caller
from handshaked.registry.snapshot import Snapshot
from handshaked.system.tasks import Tasks

log = logging.getLogger(__name__)

OFF = "none"
_RETRY_SECONDS = 15.0
_MAX_CALLS = 256
_MAX_CALLS_OF_ONE = 16
_RESERVED_CALLS = 32  # for administrators
_MAX_TASKS = 512  # before it is known who calls
_MAX_OBJECTS = 5000
_KNOWN_CALLERS = 256
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
_FAILURES = (OSError, EOFError, AuthError, DBusError, InvalidAddressError)


class Bus:
    """The manager on the bus `address`: ``system``, ``session``, an address, or ``none``. ``state`` says how it is."""

    def __init__(self, address: str, commands: Commands, manager: Manager, self_test: Callable[[], str]) -> None:
        self.state = "off" if address == OFF else "not connected yet"
        self._address = address
        self._commands = commands
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
        self._subscribers = BusSubscribers(manager.events, self._tell)
        self._tasks = Tasks("the bus")
        self._calls: Counter[int] = Counter()
        manager.on_change.append(self._on_change)
        manager.events.subscribe(Subscription(_ROOT, None, self._on_events))

    async def run(self) -> None:
        """Be on the bus, and come back to it when it goes away. Without a bus all else works."""
        while self._address != OFF:
            try:
                await self._connect()
            except _FAILURES as error:
                self._say(f"no bus: {error or type(error).__name__}")
            else:
                await self._stay()
            await asyncio.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """Leave the bus."""
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
            raise OSError(f"somebody else has the name {spec.NAME}")
        self._say(f"on the bus as {spec.NAME}")

    async def _stay(self) -> None:
        bus = self._bus
        try:
            if bus is not None:
                await bus.wait_for_disconnect()
        except _FAILURES as error:
            log.debug("bus: %s", error)
        self._subscribers.clear()
        self._callers.clear()
        self._bus = None
        self._say("no bus: the connection was lost")

    def _say(self, state: str) -> None:
        if state != self.state:
            log.log(logging.INFO if state.startswith("on") else logging.WARNING, "%s", state)
        self.state = state

    def _on_message(self, message: Message) -> bool:
        """Whether it is for us, which all method calls are."""
        if message.message_type is not MessageType.METHOD_CALL:
            if message.sender == _BUS[0] and message.member == "NameOwnerChanged":
                self._subscribers.remove(message.body[0])
                self._callers.pop(message.body[0], None)
            close_in_thread(tuple(message.unix_fds))
            return False
        if len(self._tasks) >= _MAX_TASKS:
            close_in_thread(tuple(message.unix_fds))
            self._send(Message.new_error(message, f"{_ERROR}.LimitsExceeded", "too many calls at a time"))
        else:
            self._tasks.keep(self._serve(message))
        return True

    async def _serve(self, message: Message) -> None:
        """Answer `message`, whatever happens. A call counts as one of its user's until its files are closed."""
        reply = Message.new_error(message, f"{_ERROR}.Failed", "the daemon could not answer; its log says why")
        caller = None
        try:
            caller = await self._counted(message)
            reply = await self._answer(message, caller)
        except DeniedError as error:
            reply = Message.new_error(message, f"{_ERROR}.AccessDenied", str(error))
        except _UnknownError as error:
            reply = Message.new_error(message, f"{_ERROR}.{error.kind}", str(error))
        except (HandshakedError, OSError, DBusError) as error:
            reply = Message.new_error(message, spec.REFUSED, str(error))
        finally:
            closed = close_in_thread(tuple(message.unix_fds))
            if caller is not None:
                closed.add_done_callback(lambda _: self._uncount(caller))
            if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
                self._send(reply)

    async def _counted(self, message: Message) -> Caller:
        """Who has sent `message`, if that has not too many calls: polkit may take minutes, and there are others."""
        caller = await self._caller(message.sender)
        if self._calls[caller.uid] >= _MAX_CALLS_OF_ONE:
            raise _UnknownError("LimitsExceeded", f"uid {caller.uid} makes too many calls at a time")
        if self._calls.total() >= _MAX_CALLS - (0 if is_administrator(caller) else _RESERVED_CALLS):
            raise _UnknownError("LimitsExceeded", "too many calls at a time")
        self._calls[caller.uid] += 1
        return caller

    def _uncount(self, caller: Caller) -> None:
        self._calls[caller.uid] -= 1
        self._calls += Counter()  # keeps those above zero

    async def _answer(self, message: Message, caller: Caller) -> Message:
        if message.interface == "org.freedesktop.DBus.Peer" and message.member == "Ping":
            return Message.new_method_return(message)
        if not self._objects.knows(message.path, caller):
            raise _UnknownError("UnknownObject", f"there is no object {message.path}")
        if message.interface == _INTROSPECTABLE and message.member == "Introspect":
            return Message.new_method_return(message, "s", [self._objects.introspect(message.path, caller)])
        if message.interface == _PROPERTIES:
            return self._properties(message)
        if message.interface == _OBJECT_MANAGER and message.path == spec.PATH:
            if self._objects.visible(caller) > _MAX_OBJECTS:  # the bus carries no such answer, and none would wait
                raise _UnknownError("LimitsExceeded", f"there are over {_MAX_OBJECTS} objects: use handshakectl list")
            objects = {path: _packed(found) for path, found in self._objects.managed(caller).items()}
            return Message.new_method_return(message, "a{oa{sa{sv}}}", [objects])
        return await self._invoke(message, caller)

    def _properties(self, message: Message) -> Message:
        if (message.member, message.signature) not in (("GetAll", "s"), ("Get", "ss"), ("Set", "ssv")):
            raise _UnknownError("UnknownMethod", f"there is no method {message.member}({message.signature})")
        interface, *asked = message.body
        found = self._objects.interfaces(message.path).get(interface, {})
        if message.member == "Set":
            raise _UnknownError("PropertyReadOnly", "properties are changed by methods")
        if message.member == "GetAll":
            return Message.new_method_return(message, "a{sv}", [_pack_properties(found)])
        [name] = asked
        if name not in found:
            raise _UnknownError("UnknownProperty", f"there is no property {name}")
        return Message.new_method_return(message, "v", [_pack_properties(found)[name]])

    async def _invoke(self, message: Message, caller: Caller) -> Message:
        interface = self._objects.interface(message.path)
        method = interface.method(message.member) if message.interface in (interface.name, None, "") else None
        if method is None or method.signature != message.signature:
            raise _UnknownError("UnknownMethod", f"there is no method {message.member}({message.signature})")
        try:
            values = await self._run(method, message, caller)
        except DeniedError:
            if method.action is None or not await self._authorized(message, method.action):
                raise
            values = await self._run(method, message, replace(caller, authorized=True))
        return Message.new_method_return(message, method.reply_signature, values)

    async def _run(self, method: spec.Method, message: Message, caller: Caller) -> list[Any]:
        """What `method` returns."""
        if method.command == "subscribe":
            arguments = Arguments(_plain(message.body[0]))
            wanted = pull_filter(arguments)
            arguments.end()
            self._subscribers.add(message.sender, caller, wanted)
            return []
        if method.command == "unsubscribe":
            self._subscribers.remove(message.sender)
            return []
        asked: dict[str, Any] = {}
        if message.path != spec.PATH:
            registration = self._objects.registration(message.path, caller)
            asked["name"] = registration.name if registration else ""
        for (name, signature), value in zip(method.takes, message.body, strict=True):
            if signature == "a{sv}":
                asked |= _plain(value)
            elif signature != "ah":
                asked["id" if name == "grant" else name] = value
        result = await self._commands(method.command, caller, Arguments(asked), _files(message, method))
        return _returned(method, result)

    def _tell(self, destination: str, event: Event, left_out: int) -> None:
        self._signal(spec.PATH, spec.MANAGER, "HandshakeFinished", "a{sv}u", [_pack(event), left_out], destination)

    def _on_events(self, events: list[Event]) -> None:
        for event in events:
            if event["type"] == "certificate":
                body = [event["registration"], event["subject"], event["not_after"]]
                self._signal(spec.PATH, spec.MANAGER, "CertificateExpiring", "ssd", body)

    def _on_change(self, snapshot: Snapshot) -> None:
        if self._bus is None:
            return
        added, gone, changed = self._objects.follow(snapshot)
        for path, interfaces in added.items():
            self._signal(spec.PATH, _OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}", [path, _packed(interfaces)])
        for path in gone:
            self._signal(spec.PATH, _OBJECT_MANAGER, "InterfacesRemoved", "oas", [path, [spec.REGISTRATION]])
        for path, properties in changed.items():
            body = [spec.REGISTRATION, _pack_properties(properties), []]
            self._signal(path, _PROPERTIES, "PropertiesChanged", "sa{sv}as", body)
        if added or gone:
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
        """Who has the unique name `name`: it is never given to anybody else."""
        caller = self._callers.get(name)
        if caller is None:
            [found] = await self._call(_BUS, "GetConnectionCredentials", "s", name)
            credentials = {key: variant.value for key, variant in found.items()}
            caller = self._callers[name] = Caller(
                uid=credentials["UnixUserID"],
                gids=frozenset(credentials.get("UnixGroupIDs", ())),
                pid=credentials.get("ProcessID", 0),
            )
            while len(self._callers) > _KNOWN_CALLERS:
                self._callers.popitem(last=False)
        return caller

    async def _authorized(self, message: Message, action: str) -> bool:
        """Whether polkit allows `action` to the sender; without polkit nobody is allowed more than the rules say."""
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
            raise OSError("not on the bus")
        reply = await bus.call(Message(*where, member, signature=signature, body=list(body)))
        if reply is None or reply.message_type is MessageType.ERROR:
            raise DBusError(reply.error_name if reply else f"{_ERROR}.NoReply", str(reply.body[0] if reply else ""))
        return list(reply.body)


class _UnknownError(HandshakedError):
    """What is called is not there; `kind` is the bus's name for it."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def _files(message: Message, method: spec.Method) -> tuple[int, ...]:
    indices = [
        index
        for (_, signature), value in zip(method.takes, message.body, strict=True)
        if signature == "ah"
        for index in value
    ]
    if any(not 0 <= index < len(message.unix_fds) for index in indices):
        raise RefusedError("a file was named that did not come")
    return tuple(message.unix_fds[index] for index in indices)


def _returned(method: spec.Method, result: dict[str, Any]) -> list[Any]:
    if method.command == "register":
        return [spec.object_path(result["registration"]["name"]), result["warnings"]]
    if method.command == "reload":
        return [result["renewed"], result["errors"]]
    if method.command == "grant":
        return [result["id"]]
    if method.command in ("recent", "grants"):
        return [[_pack(one) for one in result["handshakes" if method.command == "recent" else "grants"]]]
    return [_pack(result)] if method.gives else []


def _packed(interfaces: Interfaces) -> dict[str, dict[str, Variant]]:
    return {name: _pack_properties(properties) for name, properties in interfaces.items()}


def _pack_properties(properties: Properties) -> dict[str, Variant]:
    return {
        name: Variant(signature, [_pack(one) for one in value] if signature == "aa{sv}" else value)
        for name, (signature, value) in properties.items()
    }


def _pack(values: dict[str, Any]) -> dict[str, Variant]:
    """`values` as variants; what has no value is left out, as the bus knows no null."""
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
    """`value` without variants."""
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value
