"""Bounded waits: everything that tests wait for goes through here, closing and joining included."""

import asyncio
import subprocess
import threading
from collections.abc import Awaitable
from typing import Any, TypeVar

PATIENCE = 60.0
"""Seconds: longer than anything takes on a busy machine, shorter than a test's timeout."""
BUILD_PATIENCE = 600.0
"""Seconds for compilers and package managers."""
Result = TypeVar("Result")


async def soon(awaitable: Awaitable[Result]) -> Result:
    """Return what `awaitable` returns; TimeoutError if it takes too long."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def until(event: asyncio.Event) -> None:
    """Serve until `event`, which the teardown of a fixture sets."""
    await event.wait()


def join(*threads: threading.Thread) -> None:
    """Wait for threads that are about to end; AssertionError naming one that does not."""
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread.name} does not end"


def set_in_time(event: threading.Event) -> None:
    """Wait for `event`; AssertionError if it is not set in time."""
    assert event.wait(PATIENCE), "the event was not set in time"


def run_program(*command: object, timeout: float = PATIENCE, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end with its output captured as text; CalledProcessError if it fails, unless `check=False`.

    `timeout` is in seconds; a program that exceeds it is killed and TimeoutExpired raised.
    """
    return subprocess.run(
        [*map(str, command)], **{"capture_output": True, "text": True, "check": True, "timeout": timeout, **options}
    )


def kill(process: subprocess.Popen[Any]) -> Any:
    """Kill `process`, wait for its end and close its pipes; return what it has written to standard output."""
    process.kill()
    return process.communicate(timeout=PATIENCE)[0]
