"""The memory limit of the fuzz tests."""

import resource
from contextlib import suppress

import pytest

from tests.plugins.memory import memory_limited

MIB = 1 << 20


def fill_memory() -> None:
    held = []
    while True:
        held.append(b"x" * MIB)


def test_endless_allocation_is_a_memory_error() -> None:
    with pytest.raises(MemoryError), memory_limited(limit=128 * MIB):
        fill_memory()


def test_caught_memory_error_still_fails_the_test() -> None:
    with (
        pytest.raises(AssertionError, match="MiB of memory"),
        memory_limited(limit=128 * MIB, allowance=32 * MIB),
        suppress(MemoryError),
    ):
        fill_memory()


def test_limit_ends_with_the_test() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with memory_limited():
        assert resource.getrlimit(resource.RLIMIT_AS) != before
    assert resource.getrlimit(resource.RLIMIT_AS) == before
