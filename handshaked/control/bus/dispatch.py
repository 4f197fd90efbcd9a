"""D-Bus methods as control commands: their arguments, files and results, as plain values without variants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handshaked.control.bus import interface as spec
from handshaked.control.bus.objects import BusObjects
from handshaked.control.bus.subscribers import BusSubscribers
from handshaked.control.commands import Commands
from handshaked.control.manager import pull_filter
from handshaked.control.requests.arguments import Arguments
from handshaked.errors import RefusedError
from handshaked.model import Caller


@dataclass(frozen=True, slots=True)
class Call:
    """A method call on the object at ``path``, from the unique bus name ``sender``.

    ``arguments`` are plain values in the order of the method's parameters, ``descriptors`` the files attached.
    """

    path: str
    sender: str
    arguments: Sequence[Any]
    descriptors: Sequence[int]


class Dispatcher:
    """Run methods with `commands`; `objects` resolves paths, `subscribers` keeps who has subscribed."""

    def __init__(self, commands: Commands, objects: BusObjects, subscribers: BusSubscribers) -> None:
        self._commands = commands
        self._objects = objects
        self._subscribers = subscribers

    async def run(self, method: spec.Method, call: Call, caller: Caller) -> list[Any]:
        """Return the results of `method`, in the order of its signature."""
        if method.command == "subscribe":
            arguments = Arguments(call.arguments[0])
            wanted = pull_filter(arguments)
            arguments.end()
            self._subscribers.add(call.sender, caller, wanted)
            return []
        if method.command == "unsubscribe":
            self._subscribers.remove(call.sender)
            return []
        message = self._command_arguments(method, call, caller)
        result = await self._commands(method.command, caller, Arguments(message), _attached_files(method, call))
        return _results(method, result)

    def _command_arguments(self, method: spec.Method, call: Call, caller: Caller) -> dict[str, Any]:
        message: dict[str, Any] = {}
        if call.path != spec.PATH:
            registration = self._objects.registration(call.path, caller)
            message["name"] = registration.name if registration else ""
        for (name, signature), value in zip(method.parameters, call.arguments, strict=True):
            if signature == "a{sv}":
                message |= value
            elif signature != "ah":
                message["id" if name == "grant" else name] = value
        return message


def _attached_files(method: spec.Method, call: Call) -> tuple[int, ...]:
    """Return the descriptors that the arguments of type ``ah`` refer to by index."""
    indices = [
        index
        for (_, signature), value in zip(method.parameters, call.arguments, strict=True)
        if signature == "ah"
        for index in value
    ]
    if any(not 0 <= index < len(call.descriptors) for index in indices):
        raise RefusedError("file descriptor index out of range: the file was not attached to the message")
    return tuple(call.descriptors[index] for index in indices)


def _results(method: spec.Method, result: dict[str, Any]) -> list[Any]:
    match method.command:
        case "register":
            return [spec.object_path(result["registration"]["name"]), result["warnings"]]
        case "reload":
            return [result["renewed"], result["errors"]]
        case "grant":
            return [result["id"]]
        case "recent":
            return [result["handshakes"]]
        case "grants":
            return [result["grants"]]
    return [result] if method.results else []
