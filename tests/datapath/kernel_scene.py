"""A kernel source that serves emulated QUIC sockets, and consumers that request handshakes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from handshaked.configuration.handshaked_toml import Configuration, SideDefaults
from handshaked.datapath.emulated import emulated_quic_socket
from handshaked.datapath.ktls import offload
from handshaked.handshakes.kernel_tcp import KernelHandshakes
from handshaked.handshakes.quic_sockets import QuicSocketHandshakes
from handshaked.handshakes.service import HandshakeService
from handshaked.model import KeyType, Outcome, Role
from handshaked.testing.authority import Authority
from handshaked.testing.fake_quic_endpoint import Connection
from handshaked.upcall.fake_kernel import FakeFamily, Report, Submission
from handshaked.upcall.kernel import KernelLimits, KernelSource
from tests.conftest import Issue
from tests.descriptors import none_left_open
from tests.patience import PATIENCE
from tests.registered import Registered

NAME = "quic.example.com"
_EMULATED = 0  # the protocol of a socket pair, which stands for IPPROTO_QUIC


@dataclass
class Scene:
    """A source that serves emulated QUIC sockets, and the fake family that it takes requests from."""

    family: FakeFamily
    outcomes: list[Outcome] = field(default_factory=list)
    submitted: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def submit(self, connection: Connection, role: Role, **asked: Any) -> Report:
        """Submit a consumer's request for the handshake of `connection`; return its DONE."""
        self.submitted += 1
        due = self.submitted
        self.family.submit(Submission(connection.agent, role, **asked))
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(lambda: len(self.family.reports) >= due)
        connection.agent.close()
        return self.family.reports[due - 1]


@asynccontextmanager
async def scene(
    authority: Authority, issue: Issue, identity: tuple[Path, Path] | None = None, *, trusts: bool = True
) -> AsyncIterator[Scene]:
    """Run a source; clients have the certificate `identity`, and servers verify client certificates if `trusts`."""
    registered = Registered(authority)
    issued = issue(NAME)

    registered.add("web", (KeyType.ECDSA_P256, issued), names=(NAME,))
    family = FakeFamily()
    made = Scene(family)
    loop = asyncio.get_running_loop()

    async def notify() -> None:
        async with made.changed:
            made.changed.notify_all()

    tasks: list[asyncio.Task[None]] = []
    family.on_done = lambda report: tasks.append(asyncio.ensure_future(notify()))
    family.on_link = lambda: loop.add_reader(family.commands, family.serve)
    certificate, key = identity or (None, None)
    configuration = Configuration(
        client=SideDefaults(trust=authority.root, certificate=certificate, private_key=key),
        server=SideDefaults(trust=authority.root if trusts else None),
    )
    service = HandshakeService(registered.snapshot, registered, lambda _, outcome, __: made.outcomes.append(outcome))
    kernel = KernelHandshakes(service, configuration, offload)
    sockets = QuicSocketHandshakes(service, emulated_quic_socket)
    with none_left_open():
        source = KernelSource(family.open_link, {_EMULATED: partial(sockets.open_for_kernel, kernel)}, KernelLimits())
        try:
            yield made
        finally:
            source.close()
            loop.remove_reader(family.commands)
            family.close()
            await asyncio.gather(*tasks)
    assert service.in_flight == 0
