"""A memory limit for tests that feed random input: a decoder that never stops allocating fails a test, not the machine.

It applies to every Hypothesis test and to tests marked `fuzz`.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIMIT = 1 << 30
"""Bytes of address space a test may add to what its process has."""
ALLOWANCE = 256 << 20
"""Bytes of memory it may use of them: a library may well catch the MemoryError and go on."""
_PAGE = resource.getpagesize()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run fuzz tests under the limit."""
    if not getattr(getattr(item, "obj", None), "is_hypothesis_test", False) and not item.get_closest_marker("fuzz"):
        return (yield)
    with memory_limited():
        return (yield)


@contextmanager
def memory_limited(limit: int = LIMIT, allowance: int = ALLOWANCE) -> Iterator[None]:
    """Let this process add at most `limit` bytes; AssertionError at the end if more than `allowance` were in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size, resident = (int(word) * _PAGE for word in Path("/proc/self/statm").read_text().split()[:2])
    wanted = size + limit
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (proc(5))
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    used = _peak() - resident
    assert used <= allowance, f"the test took {used >> 20} MiB of memory, {allowance >> 20} are allowed"


def _peak() -> int:
    """Return the largest resident set since the peak was reset."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:"))
    return int(line.split()[1]) << 10
