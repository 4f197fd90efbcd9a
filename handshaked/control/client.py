"""A blocking client of the control socket."""

import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from handshaked.errors import RefusedError
from handshaked.system import directories
from handshaked.system.connecting import connect
from handshaked.wire.json_packets import receive_message, send_message

_TIMEOUT = 60.0


class ControlClient:
    """A connection to the daemon's control socket; a context manager.

    `path` is the socket (default: that of the user's own daemon if there is one, else the system's). RefusedError if
    the connection fails.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or directories.control_socket()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connect(self._sock, path)  # blocking: it waits for an overloaded daemon
        except OSError as error:
            self._sock.close()
            raise RefusedError(f"cannot reach the daemon at {path}: {error.strerror}; is handshaked running?") from None
        self._sock.settimeout(_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sock.close()

    def ask(self, command: str, arguments: dict[str, Any], descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
        """Return the result of `command`. RefusedError with the daemon's reason, or if it does not answer."""
        try:
            send_message(self._sock, {"command": command, **arguments}, descriptors)
            received = receive_message(self._sock)
        except OSError as error:
            raise RefusedError(f"the daemon did not answer: {error}") from None
        if received is None:
            raise RefusedError("the daemon closed the connection without answering")
        answer = received[0]
        if "error" in answer:
            raise RefusedError(str(answer["error"]))
        result: dict[str, Any] = answer["result"]
        return result

    def subscribe(self, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield batches of events that match the filter `wanted`. RefusedError when the connection ends."""
        self.ask("subscribe", wanted)
        self._sock.settimeout(None)
        while True:
            try:
                received = receive_message(self._sock)
            except OSError as error:
                raise RefusedError(f"the connection to the daemon was lost: {error}") from None
            if received is None:
                raise RefusedError("the daemon closed the connection")
            yield received[0]
