"""The commands of the control socket and of D-Bus, by name."""

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from handshaked import __version__
from handshaked.control.event_broker import Subscription
from handshaked.control.manager import Manager, pull_filter
from handshaked.control.registry_feed import RegistryFeed
from handshaked.control.requests.arguments import Arguments
from handshaked.errors import RefusedError
from handshaked.model import Caller
from handshaked.wire.json_packets import Message
from handshaked.workers.supervisor import Supervisor


class Commands:
    """Run commands: call it with a command, the caller, the arguments, and the attached files.

    `states` add entries to ``status``.
    """

    def __init__(
        self,
        manager: Manager,
        supervisor: Supervisor,
        feed: RegistryFeed,
        states: dict[str, Callable[[], Any]],
    ) -> None:
        self._manager = manager
        self._supervisor = supervisor
        self._states = states
        self._started = time.time()
        self._with_arguments: dict[str, Callable[[Caller, Arguments], Message | Awaitable[Message]]] = {
            "unregister": manager.unregister,
            "list": manager.registrations,
            "show": manager.show,
            "explain": manager.explain,
            "grant": manager.grant,
            "revoke": manager.revoke,
            "recent": manager.recent,
            "follow": feed.follow,
        }
        self._without_arguments: dict[str, Callable[[Caller], Message | Awaitable[Message]]] = {
            "grants": manager.grants,
            "reload": manager.reload,
            "status": self.status,
            "statistics": manager.statistics,
        }

    async def __call__(
        self, command: str, caller: Caller, arguments: Arguments, descriptors: tuple[int, ...] = ()
    ) -> Message:
        if command == "register":
            return await self._manager.register(caller, arguments, descriptors)
        if descriptors:
            raise RefusedError(f"command {command!r} takes no files, but {len(descriptors)} were passed")
        if command in self._with_arguments:
            return await _awaited(self._with_arguments[command](caller, arguments))
        if command not in self._without_arguments:
            raise RefusedError(f"unknown command {command!r}")
        arguments.end()
        return await _awaited(self._without_arguments[command](caller))

    def subscribe(
        self, caller: Caller, arguments: Arguments, deliver: Callable[[list[Message]], None]
    ) -> Callable[[], None]:
        """Deliver the events that `caller` may see and that pass its filter; return a function that unsubscribes."""
        wanted = pull_filter(arguments)
        arguments.end()
        return self._manager.events.subscribe(Subscription(caller, wanted, deliver))

    async def status(self, caller: Caller) -> Message:
        """Return the daemon's status."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uid": os.geteuid(),
            "time": time.time(),
            "uptime": time.time() - self._started,
            **self._manager.status(caller),
            **{name: state() for name, state in self._states.items()},
            "workers": await self._supervisor.status(),
            "worker_restarts": self._supervisor.restarts,
        }


async def _awaited(result: Message | Awaitable[Message]) -> Message:
    return result if isinstance(result, dict) else await result
