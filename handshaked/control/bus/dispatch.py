"""D-Bus methods as control commands: their arguments, files and results, as plain values without variants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handshaked.control.bus import interface as spec
from handshaked.control.bus.objects import BusObjects
from handshaked.control.bus.senders import Sender
from handshaked.control.bus.subscribers import BusSubscribers
from handshaked.control.commands import Commands
from handshaked.control.manager import pull_filter
from handshaked.control.requests.arguments import Arguments
from handshaked.errors import RefusedError, shortened
from handshaked.model import Caller

POLKIT_DETAILS = ("name", "server_names", "alpns", "user", "group", "id", "allow_kernel", "deliver")
"""The arguments that polkit's dialog can show, in ``$(..)`` of its message."""
_MAX_DETAIL = 256


@dataclass(frozen=True, slots=True)
class Call:
    """A method call on the object at ``path``.

    ``arguments`` are plain values in the order of the method's parameters, ``descriptors`` the files attached.
    """

    path: str
    sender: Sender
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
            if not call.sender.gone:  # nobody would ever unsubscribe it
                self._subscribers.add(call.sender.name, caller, wanted)
            return []
        if method.command == "unsubscribe":
            self._subscribers.remove(call.sender.name)
            return []
        message = self._command_arguments(method, call, caller)
        result = await self._commands(method.command, caller, Arguments(message), _attached_files(method, call))
        return _results(method, result)

    def details(self, method: spec.Method, call: Call, caller: Caller) -> dict[str, str]:
        """Return what polkit may show of `call` in its dialog: printable text of the caller, without quotes."""
        shown = {name: _shown(value) for name, value in self._command_arguments(method, call, caller).items()}
        return {name: shown[name] or "any" for name in POLKIT_DETAILS if name in shown}

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


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = "".join(
        character if character.isprintable() and character not in '"$' else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
    return shortened(text, _MAX_DETAIL)


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
