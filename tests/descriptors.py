"""Count the descriptors of this process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.handshake_channel import eventually


@contextmanager
def none_left_open() -> Iterator[None]:
    """Check that the block leaves no descriptor open, once threads that close some have done so.

    There may be fewer: such a thread of an earlier test, or the garbage collector, can close others.
    """
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= before), "descriptors are left open"
