"""The service when descriptors cannot be closed, and when replies are too long: it stays on the bus."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from handshaked.callers import closing
from handshaked.callers.closing import Closer
from handshaked.control.bus import connection, service
from handshaked.control.bus.service import BusService
from handshaked.control.commands import Commands
from handshaked.control.manager import Manager
from handshaked.errors import RefusedError
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.system.directories import DATABASE
from tests.control.bus.blocking_client import BlockingBus
from tests.control.bus.calls import REFUSED
from tests.control.bus.running_bus import RunningBus
from tests.patience import PATIENCE, soon

pytestmark = pytest.mark.needs("root", "dbus-daemon")

NOT_SUPPORTED = "org.freedesktop.DBus.Error.NotSupported"


class RefusingCommands(Commands):
    """Commands that refuse everything."""

    def __init__(self) -> None:
        pass

    async def __call__(self, *_: object) -> dict[str, Any]:
        raise RefusedError("no")


def with_service(bus: RunningBus, directory: Path, check: Callable[[BusService], Awaitable[None]]) -> None:
    """Run `check` beside a service on `bus`."""

    async def run() -> None:
        store = SqliteRegistryWriter(directory / DATABASE)
        manager = Manager(store, lambda _: asyncio.sleep(0), directory)
        served = BusService(bus.address, RefusingCommands(), manager, lambda: "ok", Closer())
        running = asyncio.create_task(served.run())
        try:
            await state(served, lambda now: now.startswith("on the bus"))
            await check(served)
        finally:
            served.close()
            running.cancel()
            store.close()

    asyncio.run(run())


async def state(served: BusService, expected: Callable[[str], bool]) -> None:
    """Wait until the state of the service is as `expected`; it logs each change."""
    changed = asyncio.Event()
    handler = logging.Handler()
    handler.emit = lambda _: asyncio.get_running_loop().call_soon(changed.set)  # type: ignore[method-assign]
    service.log.addHandler(handler)
    service.log.setLevel(logging.INFO)
    try:
        while not expected(served.state):
            changed.clear()
            await soon(changed.wait())
    finally:
        service.log.removeHandler(handler)
        service.log.setLevel(logging.NOTSET)


def test_service_refuses_files_while_too_many_cannot_be_closed(
    own_bus: RunningBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file on a hostile file system blocks its close for as long as the attacker likes."""
    go_on = threading.Event()
    close = closing.close_without_linger

    def block(descriptors: tuple[int, ...]) -> None:
        go_on.wait(PATIENCE)
        close(descriptors)

    def register() -> str:
        with BlockingBus(own_bus.address) as client, Path("/dev/null").open() as file:
            descriptors = (file.fileno(),)
            return client.ask("Register", "sa{sv}ah", "x", {}, [0], descriptors=descriptors).error_name

    def flood() -> None:
        while register() == REFUSED:
            pass

    async def check(served: BusService) -> None:
        assert await asyncio.to_thread(register) == REFUSED
        await asyncio.to_thread(flood)
        await state(served, lambda now: now.endswith("without files: too many are being closed"))
        assert await asyncio.to_thread(register) == NOT_SUPPORTED
        go_on.set()
        await state(served, lambda now: now.startswith("on the bus") and "without" not in now)
        assert await asyncio.to_thread(register) == REFUSED

    monkeypatch.setattr(service, "MAX_PENDING_FILES", 8)
    monkeypatch.setattr(service, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(closing, "close_without_linger", block)
    with_service(own_bus, tmp_path, check)


def test_reply_that_is_too_long_becomes_an_error(
    own_bus: RunningBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bus would disconnect the daemon."""

    def introspect() -> str:
        with BlockingBus(own_bus.address) as client:
            return client.ask("Introspect", interface="org.freedesktop.DBus.Introspectable").error_name

    async def check(served: BusService) -> None:
        monkeypatch.setattr(connection, "MAX_SENT", 1000)
        assert await asyncio.to_thread(introspect) == "org.freedesktop.DBus.Error.LimitsExceeded"
        assert served.state.startswith("on the bus")

    with_service(own_bus, tmp_path, check)
