"""Method calls, from admission to the reply.

A call's body is unmarshalled after its caller is known and within its limits, in the caller's turn. polkit may allow
what the manager denies.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from handshaked.callers.account import Accounts, Limits
from handshaked.callers.closing import Closer
from handshaked.callers.turns import Turns
from handshaked.control.bus import interface as spec
from handshaked.control.bus.connection import BusError
from handshaked.control.bus.dispatch import Call, Dispatcher
from handshaked.control.bus.interface import CallError
from handshaked.control.bus.marshalling import MalformedError
from handshaked.control.bus.messages import Flag, Message, Received
from handshaked.control.bus.objects import BusObjects
from handshaked.control.bus.packing import pack_as, pack_interfaces, pack_properties
from handshaked.control.bus.places import Places
from handshaked.control.bus.senders import Sender
from handshaked.errors import DeniedError, HandshakedError, shortened
from handshaked.model import Caller
from handshaked.system.tasks import Tasks

log = logging.getLogger(__name__)

UNKNOWN_UID = -1
"""Stands for the user of calls that are refused before their caller is known."""
MAX_OBJECTS = 5000
MAX_CALLS = 256
MAX_CALLS_PER_USER = 16  # one that waits for polkit can take minutes, and must not keep others out
RESERVED_CALLS = 32
MAX_ARGUMENTS = 16 * 1024
_MAX_VALUES = 256
_MAX_FILES_VALUES = 4096  # of methods that take files; their bodies have only the limit of all messages
_ERROR = "org.freedesktop.DBus.Error"
_INTERNAL = "internal error: see the daemon's log"
INTROSPECTABLE, PROPERTIES, OBJECT_MANAGER = (
    f"org.freedesktop.DBus.{name}" for name in ("Introspectable", "Properties", "ObjectManager")
)

Authorize = Callable[[Received, str, dict[str, str]], Awaitable[bool]]
"""Returns whether polkit allows the sender of a call an action, with details for its dialog."""


class Calls:
    """Run calls on `objects` with `dispatcher`, and pass the replies to `send`."""

    def __init__(
        self,
        objects: BusObjects,
        dispatcher: Dispatcher,
        authorize: Authorize,
        send: Callable[[Message], object],
        closer: Closer,
    ) -> None:
        self._objects = objects
        self._dispatcher = dispatcher
        self._authorize = authorize
        self._send = send
        self._places = Places(MAX_CALLS, RESERVED_CALLS, MAX_CALLS_PER_USER)
        self._closer = closer
        self._accounts = Accounts(Limits(), closer.pool)
        self._turns = Turns()
        self._tasks = Tasks("the bus")

    def cancel(self) -> None:
        """Cancel all calls in progress."""
        self._tasks.cancel()

    def accept(self, message: Received, sender: Sender, caller: Caller) -> None:
        """Answer `message` of `sender`, unless `caller` has too many calls in progress."""
        if self._places.take(caller):
            self._tasks.start(self._serve(message, sender, caller))
        else:
            reason = f"{caller} has too many calls in progress; try again later"
            self.refuse(message, CallError("LimitsExceeded", reason), caller.account)

    def refuse(self, message: Received, error: Exception, uid: int = UNKNOWN_UID) -> None:
        """Reply to `message` with `error`, and close its files."""
        self._closer.close(uid, message.descriptors)
        self._reply(message, _failure(message, error))

    async def _serve(self, message: Received, sender: Sender, caller: Caller) -> None:
        """Reply to `message` in any case. A call counts against its user's limit until its files are closed."""
        reply = message.failing(f"{_ERROR}.Failed", _INTERNAL)
        account = self._accounts.open(caller)
        try:
            reply = await self._turns.run(account, self._answer(message, sender, caller))
        except (HandshakedError, OSError) as error:
            reply = _failure(message, error)
        finally:
            closed = self._closer.close(caller.account, message.descriptors)
            closed.add_done_callback(lambda _: self._places.release(caller))
            self._accounts.close(caller)
            self._reply(message, reply)

    def _reply(self, message: Received, reply: Message) -> None:
        if message.flags & Flag.NO_REPLY_EXPECTED:
            return
        try:
            self._send(reply)
        except MalformedError as error:  # the reply is too long
            self._send(message.failing(f"{_ERROR}.LimitsExceeded", str(error)))

    async def _answer(self, message: Received, sender: Sender, caller: Caller) -> Message:
        if message.interface == "org.freedesktop.DBus.Peer" and message.member == "Ping":
            return message.returning()
        if not self._objects.knows(message.path, caller):
            raise CallError("UnknownObject", f"no object {message.path}")
        if message.interface == INTROSPECTABLE and message.member == "Introspect":
            return message.returning("s", self._objects.introspect(message.path, caller))
        if message.interface == PROPERTIES:
            return self._properties(message)
        if message.interface == OBJECT_MANAGER and message.path == spec.PATH:
            if self._objects.visible(caller) > MAX_OBJECTS:
                raise CallError("LimitsExceeded", f"more than {MAX_OBJECTS} objects: use handshakectl list")
            objects = {path: pack_interfaces(found) for path, found in self._objects.managed(caller).items()}
            return message.returning("a{oa{sa{sv}}}", objects)
        return await self._invoke(message, sender, caller)

    def _properties(self, message: Received) -> Message:
        if (message.member, message.signature) not in (("GetAll", "s"), ("Get", "ss"), ("Set", "ssv")):
            raise _unknown_method(message)
        if message.member == "Set":
            raise CallError("PropertyReadOnly", "properties are read-only: use the methods to change a registration")
        interface, *asked = message.values(message.signature, _MAX_VALUES)
        found = self._objects.interfaces(message.path).get(interface, {})
        if message.member == "GetAll":
            return message.returning("a{sv}", pack_properties(found))
        [name] = asked
        if name not in found:
            raise CallError("UnknownProperty", f"no property {name}")
        return message.returning("v", pack_properties(found)[name])

    async def _invoke(self, message: Received, sender: Sender, caller: Caller) -> Message:
        interface = self._objects.interface(message.path)
        method = interface.method(message.member) if message.interface in (interface.name, "") else None
        if method is None or method.signature != message.signature:
            raise _unknown_method(message)
        arguments = message.values(method.signature, _MAX_FILES_VALUES if method.takes_files else _MAX_VALUES)
        call = Call(message.path, sender, arguments, message.descriptors)
        try:
            results = await self._dispatcher.run(method, call, caller)
        except DeniedError:
            if method.action is None:
                raise
            if not await self._authorize(message, method.action, self._dispatcher.details(method, call, caller)):
                raise
            results = await self._dispatcher.run(method, call, replace(caller, authorized=True))
        packed = [pack_as(signature, result) for (_, signature), result in zip(method.results, results, strict=True)]
        return message.returning(method.reply_signature, *packed)


def check_size(message: Received) -> None:
    """Raise CallError if `message` is larger than any call of its method, or has files and must not."""
    methods = [one.method(message.member) for one in (spec.MANAGER_INTERFACE, spec.REGISTRATION_INTERFACE)]
    if any(method is not None and method.takes_files for method in methods):
        too_long = message.body is None
    else:
        too_long = message.body is None or len(message.body) > MAX_ARGUMENTS
        if message.descriptors:
            raise CallError("InvalidArgs", f"{message.member} takes no files")
    if too_long:
        raise CallError("LimitsExceeded", f"the arguments of {message.member} are too long")


def _unknown_method(message: Received) -> CallError:
    return CallError("UnknownMethod", f"no method {message.member}({message.signature})")


def _failure(message: Received, error: Exception) -> Message:
    """Return the reply for `error`; its text is short, whatever the call has named."""
    match error:
        case DeniedError():
            name = f"{_ERROR}.AccessDenied"
        case CallError():
            name = f"{_ERROR}.{error.kind}"
        case BusError():
            name = f"{_ERROR}.Failed"
        case _:
            name = spec.REFUSED
    return message.failing(name, shortened(str(error)))
