"""Slow files of one user delay only that user."""

import asyncio
import os
import threading

import pytest

from handshaked.callers.threads import ThreadPool
from handshaked.control.files.readers import Readers
from handshaked.errors import RefusedError
from tests.patience import set_in_time


async def read_slowly(readers: Readers, came: threading.Event) -> bytes:
    """Return what is read from a slow file, after other users were served and the first caller timed out."""
    theirs, ours = os.pipe()
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def read(files: tuple[int, ...]) -> None:
        set_in_time(came)
        content = os.read(files[0], 100)
        loop.call_soon_threadsafe(got.set_result, content)

    for _ in range(2):  # the second read does not even start
        with pytest.raises(RefusedError, match="files of uid 1 could not be read"):
            await readers.read(1, read, (theirs,), seconds=0)
    assert await readers.read(2, lambda _: "at once") == "at once"
    os.close(theirs)
    os.write(ours, b"late")
    came.set()
    content = await got
    os.close(ours)
    return content


def test_slow_file_delays_only_its_user() -> None:
    readers, came = Readers(), threading.Event()

    async def run() -> None:
        try:
            assert await read_slowly(readers, came) == b"late"
        finally:
            came.set()
        while True:
            try:
                assert await readers.read(1, lambda _: "again") == "again"
            except RefusedError:  # the slow read is only ending now
                await asyncio.sleep(0)
            else:
                break

    asyncio.run(run())


class CountingPool(ThreadPool):
    """Counts the threads that were started."""

    count = 0

    def started(self) -> None:
        super().started()
        self.count += 1


def test_subordinate_uids_share_the_thread_of_their_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handshaked.control.files.readers.owner_of", lambda uid: 1 if uid > 100_000 else uid)

    async def run() -> None:
        pool, came = CountingPool(), threading.Event()
        readers = Readers(pool)
        try:
            for uid in (100_001, 100_002, 1):
                with pytest.raises(RefusedError, match=f"files of uid {uid} could not be read"):
                    await readers.read(uid, lambda _: set_in_time(came), seconds=0)
            assert pool.count == 1
        finally:
            came.set()

    asyncio.run(run())


async def fail(readers: Readers) -> None:
    def read(files: tuple[int, ...]) -> None:
        raise FileNotFoundError(2, "is not there", "path")

    with pytest.raises(FileNotFoundError, match="is not there"):
        await readers.read(1, read)
    assert await readers.read(1, lambda _: "again") == "again"


def test_error_of_a_read_reaches_the_caller() -> None:
    asyncio.run(fail(Readers()))


def test_unexpected_error_costs_its_user_only_and_quotes_no_file(caplog: pytest.LogCaptureFixture) -> None:
    def confuse(files: tuple[int, ...]) -> None:
        raise LookupError("-----BEGIN PRIVATE KEY-----")

    async def scenario(readers: Readers) -> None:
        with pytest.raises(RefusedError, match=r"internal error \(LookupError\): see the daemon's log"):
            await readers.read(1, confuse)
        assert await readers.read(1, lambda _: "again") == "again"

    asyncio.run(scenario(Readers()))
    [line] = caplog.messages
    assert line.startswith(f"unexpected LookupError in files of uid 1, raised in {__file__}:")
    assert "KEY" not in line
