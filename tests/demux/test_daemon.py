"""The demultiplexer's process."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.demux.daemon import BoundedDict, Demux, Settings
from handshaked.demux.sockets import OwnSockets
from handshaked.system.listening import open_listener
from tests.demux.control import answer
from tests.patience import soon


def test_bounded_dict_drops_its_oldest_entry() -> None:
    latest: BoundedDict[str, int] = BoundedDict(2)
    for key, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        latest[key] = value
    assert list(latest.items()) == [("a", 3), ("c", 4)]


@pytest.fixture
def signals_restored() -> Iterator[None]:
    """A process that ends ignores signals; this one goes on, and its children would ignore them, too."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_restored")
def test_unexpected_error_of_the_follower_ends_the_process(control: socket.socket, tmp_path: Path) -> None:
    async def scenario() -> None:
        with OwnSockets().shared(("127.0.0.1", 0)) as shared, open_listener(tmp_path / "accept.sock") as listener:
            settings = Settings(Path(os.fspath(control.getsockname())))
            running = asyncio.create_task(Demux(settings, [shared], listener).run())
            await answer(control, result={"unexpected": "answer"})
            await soon(running)

    with pytest.raises(KeyError):
        asyncio.run(scenario())
