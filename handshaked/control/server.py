"""The control socket: reads commands, says who asks, and forwards them to the manager. It decides nothing itself."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from handshaked.control.arguments import Arguments
from handshaked.control.channel import Message, close_all, receive_message, send_message
from handshaked.errors import RefusedError
from handshaked.model import Caller

log = logging.getLogger(__name__)

Handler = Callable[[str, Caller, Arguments, tuple[int, ...]], Awaitable[Message]]
MAX_CONNECTIONS = 64
_IDLE_SECONDS = 60.0


class ControlServer:
    """Answers commands that come in on `listener` with what `handle` returns; `caller_of` tells who asks."""

    def __init__(self, listener: socket.socket, handle: Handler, caller_of: Callable[[socket.socket], Caller]) -> None:
        self._listener = listener
        self._handle = handle
        self._caller_of = caller_of
        self._tasks: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener, self._accept)

    async def close(self) -> None:
        """Take no more commands; end those that run."""
        asyncio.get_running_loop().remove_reader(self._listener)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            log.error("cannot accept a connection on the control socket: %s", error)
            return
        if len(self._tasks) >= MAX_CONNECTIONS:
            sock.close()
            return
        sock.setblocking(False)
        task = asyncio.create_task(self._serve(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        with sock:
            caller = self._caller_of(sock)
            while await _readable(sock):
                try:
                    received = receive_message(sock)
                except (OSError, RefusedError) as error:
                    _answer(sock, {"error": str(error)})
                    return
                if received is None:
                    return
                message, descriptors = received
                try:
                    answer = await self._answer_to(caller, message, descriptors)
                finally:
                    close_all(descriptors)
                _answer(sock, answer)

    async def _answer_to(self, caller: Caller, message: Message, descriptors: tuple[int, ...]) -> Message:
        try:
            command = message.pop("command", None)
            if not isinstance(command, str):
                raise RefusedError("the message names no command")
            return {"result": await self._handle(command, caller, Arguments(message), descriptors)}
        except RefusedError as error:
            return {"error": str(error)}
        except OSError as error:
            log.error("control command failed: %s", error)
            return {"error": f"the daemon could not do it: {error}"}


async def _readable(sock: socket.socket) -> bool:
    """Whether `sock` has something to read before its peer has been idle for too long."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), _IDLE_SECONDS)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(sock)
    return True


def _answer(sock: socket.socket, message: Message) -> None:
    try:
        send_message(sock, message)
    except (OSError, RefusedError) as error:
        log.warning("a control answer could not be sent: %s", error)
