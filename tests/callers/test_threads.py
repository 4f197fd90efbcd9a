"""Blocking work runs in threads, with a limit for each caller, and never in the event loop."""

import _thread
import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from handshaked.callers.threads import ThreadPool, Threads, run_in_thread
from tests.patience import PATIENCE, set_in_time, soon


def test_threads_of_a_caller_are_limited_and_no_work_is_lost() -> None:
    go_on = threading.Semaphore(0)
    working: list[threading.Thread] = []
    most = []

    def work() -> None:
        working.append(threading.current_thread())
        most.append(len(working))
        go_on.acquire()
        working.remove(threading.current_thread())

    async def scenario() -> None:
        threads = Threads(limit=2)
        ends: asyncio.Queue[int] = asyncio.Queue()
        for number in range(7):
            threads.run(work, lambda number=number: ends.put_nowait(number))  # type: ignore[misc] # its default
        ended = []
        for _ in range(7):
            go_on.release()
            ended.append(await soon(ends.get()))
        assert sorted(ended) == list(range(7))

    asyncio.run(scenario())
    assert len(most) == 7
    assert max(most) <= 2


def test_work_waits_for_a_thread_and_never_runs_in_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([RuntimeError("can't start new thread")] * 2)

    def run_sometimes(work: Callable[[], object], done: Callable[[], object]) -> None:
        for failure in failures:
            raise failure
        run_in_thread(work, done)

    monkeypatch.setattr("handshaked.callers.threads.run_in_thread", run_sometimes)
    ran: list[int] = []

    async def scenario() -> None:
        done = asyncio.Event()
        Threads(limit=2).run(lambda: ran.append(threading.get_ident()), done.set)
        await soon(done.wait())

    asyncio.run(scenario())
    assert threading.get_ident() not in ran
    assert len(ran) == 1


def test_thread_without_work_does_the_next_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a thread for each would cost the event loop more than most work does."""
    started: list[object] = []
    start = _thread.start_new_thread

    def count_and_start(work: Callable[..., object], words: tuple[object, ...]) -> int:
        started.append(work)
        return start(work, words)

    monkeypatch.setattr(_thread, "start_new_thread", count_and_start)

    async def scenario() -> None:
        for _ in range(100):
            await soon(Threads(limit=1).result(lambda: None))

    asyncio.run(scenario())
    assert len(started) <= 1


def test_failed_work_is_reported_and_releases_its_thread() -> None:
    errors: list[dict] = []
    error = OSError("why")

    def fail() -> None:
        raise error

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        threads, done = Threads(limit=1), asyncio.Event()
        threads.run(fail, lambda: None)
        threads.run(lambda: None, done.set)
        await soon(done.wait())

    asyncio.run(scenario())
    assert errors == [{"message": "unexpected error of work in a thread", "exception": error}]


def test_fewer_threads_left_means_fewer_for_each_caller() -> None:
    """Three callers want all threads, and there is one left for another caller, and for root."""
    go_on, started = threading.Event(), threading.Semaphore(0)
    running: list[str] = []

    def work(name: str) -> None:
        running.append(name)
        started.release()
        set_in_time(go_on)

    async def scenario() -> None:
        pool = ThreadPool(total=12, reserve=2)
        ends: asyncio.Queue[str] = asyncio.Queue()

        def ask(name: str, times: int, *, privileged: bool = False) -> None:
            threads = Threads(100, pool, privileged=privileged)
            for _ in range(times):
                threads.run(partial(work, name), partial(ends.put_nowait, name))

        async def count(number: int) -> Counter[str]:
            for _ in range(number):
                await soon(asyncio.to_thread(started.acquire, True, PATIENCE))
            return Counter(running)

        for name in ("first", "second", "third"):
            ask(name, 20)
        assert await count(9) == {"first": 5, "second": 3, "third": 1}
        ask("fourth", 1)
        ask("root", 1, privileged=True)
        assert (await count(2)).keys() > {"fourth", "root"}
        assert len(running) == 11
        go_on.set()
        for _ in range(62):
            await soon(ends.get())

    asyncio.run(scenario())
