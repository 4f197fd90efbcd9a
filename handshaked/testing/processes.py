"""Processes that end with a block, in bounded time."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import AnyStr

_END_SECONDS = 30.0


@contextmanager
def ending(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """End `process` with the block and close its pipes: by SIGTERM, by SIGKILL if it does not heed that in time."""
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
