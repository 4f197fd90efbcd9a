"""A kernel source on a fake family, with attempts that the test ends."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from handshaked.datapath.driver import Attempt, End
from handshaked.errors import Alert, Status
from handshaked.events import HandshakeComplete, HandshakeFailed
from handshaked.model import CipherSuite, Outcome, Request, Role
from handshaked.upcall.fake_kernel import FakeFamily, Report, Submission
from handshaked.upcall.kernel import KernelLimits, KernelSource
from tests.descriptors import none_left_open

COMPLETE = HandshakeComplete(None, None, CipherSuite.AES_128_GCM_SHA256, resumed=False, peer_keys=(7,), tags=("a",))
FAILED = HandshakeFailed(Alert.UNKNOWN_CA, "unknown CA", Status.REFUSED, Alert.UNKNOWN_CA.quic_error)
LIMITS = KernelLimits(answer=0.2, retry=0.05)


class Bench:
    """A source, its family, and the attempts that it opened."""

    def __init__(self, family: FakeFamily, limits: KernelLimits = LIMITS, *, end: End | None = COMPLETE) -> None:
        self.family = family
        self.requests: list[Request] = []
        self.attempts: list[Attempt] = []
        self.faults_to_come = 0
        self._end = end
        self._done = asyncio.Condition()
        self._consumers: list[socket.socket] = []
        family.on_done = lambda report: self._changed()
        family.serve_in_loop()
        self.source = KernelSource(family.open_link, {socket.IPPROTO_TCP: self._open}, limits)

    def submit(self, sock: socket.socket | None = None, *, ready: bool = True, timeout: int | None = None) -> None:
        if sock is None:
            sock = socket.socket()
        self._consumers.append(sock)
        self.family.submit(Submission(sock, Role.SERVER, timeout=timeout), ready=ready)

    async def reports(self, count: int) -> list[Report]:
        """Wait for `count` reports; return all."""
        async with asyncio.timeout(20), self._done:
            await self._done.wait_for(lambda: len(self.family.reports) >= count)
        return self.family.reports

    async def until(self, condition: Callable[[], bool]) -> None:
        """Run the event loop until `condition` holds; neither the source nor the family has an event for it."""
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - see above
                await asyncio.sleep(0)

    async def serving(self, state: str = "serving") -> None:
        await self.until(lambda: self.source.status["state"] == state)

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self.until(lambda: not self.source.status["in_flight"])

    async def all_accepted(self) -> None:
        """Wait until the family has answered that nothing is pending any more: the fourth command."""
        await self.until(lambda: self.family.commands_served >= 4)

    async def opened(self, count: int) -> None:
        async with asyncio.timeout(20), self._done:
            await self._done.wait_for(lambda: len(self.attempts) >= count)

    def close(self) -> None:
        self.source.close()
        self.family.close()
        for sock in self._consumers:
            sock.close()

    def _open(self, request: Request, sock: socket.socket, report: Callable[[Outcome], None]) -> Attempt:
        if self.faults_to_come:
            self.faults_to_come -= 1
            raise RuntimeError("on purpose")
        attempt = Attempt(request, report, lambda *_: None)
        self.requests.append(request)
        self.attempts.append(attempt)
        self._changed()
        if self._end is not None:
            end = self._end
            attempt.step(lambda now: end)
        return attempt

    def _changed(self) -> None:
        async def notify() -> None:
            async with self._done:
                self._done.notify_all()

        self._notifying = asyncio.ensure_future(notify())


@asynccontextmanager
async def bench(
    family: FakeFamily | None = None, limits: KernelLimits = LIMITS, *, end: End | None = COMPLETE
) -> AsyncIterator[Bench]:
    with none_left_open():
        made = Bench(family or FakeFamily(), limits, end=end)
        try:
            yield made
        finally:
            made.close()
            await asyncio.sleep(0)
