"""What may take any time is done in threads: so many for each caller, and never in the event loop."""

import asyncio
import threading

import pytest

from handshaked.callers.threads import Threads
from tests.patience import join, soon


def test_a_caller_has_so_many_threads_and_no_work_is_lost() -> None:
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


def test_where_no_thread_can_be_had_the_event_loop_does_not_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    start, failures = threading.Thread.start, iter([RuntimeError("can't start new thread")] * 2)

    def start_sometimes(thread: threading.Thread) -> None:
        for failure in failures:
            raise failure
        start(thread)

    ran: list[threading.Thread] = []

    async def scenario() -> None:
        done = asyncio.Event()
        Threads(limit=2).run(lambda: ran.append(threading.current_thread()), done.set)
        await soon(done.wait())

    monkeypatch.setattr(threading.Thread, "start", start_sometimes)
    asyncio.run(scenario())
    assert threading.main_thread() not in ran
    assert len(ran) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_work_that_fails_gives_its_thread_back() -> None:
    failing: list[threading.Thread] = []

    def fail() -> None:
        failing.append(threading.current_thread())
        raise OSError

    async def scenario() -> None:
        threads, done = Threads(limit=1), asyncio.Event()
        threads.run(fail, lambda: None)
        threads.run(lambda: None, done.set)
        await soon(done.wait())

    asyncio.run(scenario())
    join(failing[0])  # else it might complain in the next test
