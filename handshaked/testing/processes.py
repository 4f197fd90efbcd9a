"""Stop child processes at the end of a block, in bounded time."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import AnyStr

_END_SECONDS = 30.0


@contextmanager
def ending(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """Stop `process` at the end of the block and close its pipes: with SIGTERM, and with SIGKILL after a timeout."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_END_SECONDS)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
