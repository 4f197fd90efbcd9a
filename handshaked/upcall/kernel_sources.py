"""The kernel's sources of one worker, one for each network namespace: made, configured anew, and closed together."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from handshaked.configuration.handshaked_toml import OWN_NAMESPACE, Configuration, load_configuration
from handshaked.datapath.ktls import capabilities, hand_over
from handshaked.datapath.quic_options import IPPROTO_QUIC
from handshaked.datapath.quic_socket import kernel_quic_socket
from handshaked.errors import RefusedError
from handshaked.handshakes.kernel_tcp import KernelHandshakes
from handshaked.handshakes.quic_sockets import QuicSocketHandshakes
from handshaked.handshakes.service import HandshakeService
from handshaked.upcall.kernel import KernelLimits, KernelSource, OpenPath
from handshaked.upcall.kernel_connection import Link
from handshaked.upcall.kernel_messages import NetlinkLink

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""How often the configuration and the files it names are looked at."""


class KernelSources:
    """The sources that the configuration in the file at `path` asks for, or those in `namespaces` if any are given.

    Whether its files have changed is looked at every `look` seconds; `open_link` leads into a network namespace.
    """

    def __init__(
        self,
        service: HandshakeService,
        path: Path,
        namespaces: tuple[str, ...],
        *,
        open_link: Callable[[str | None], Link] = NetlinkLink,
        look: float = LOOK_SECONDS,
    ) -> None:
        self._path = path
        self._problem: str | None = None
        configuration = load_configuration(path, required=False)
        self._files = _files(path, configuration)
        self._handshakes = KernelHandshakes(service, configuration, hand_over)
        capabilities()  # found out now, not while somebody waits
        limits = _limits(configuration)
        quic_sockets = QuicSocketHandshakes(service, kernel_quic_socket)
        paths: dict[int, OpenPath] = {
            socket.IPPROTO_TCP: self._handshakes.open,
            IPPROTO_QUIC: partial(quic_sockets.open_for_kernel, self._handshakes),
        }
        wanted = dict.fromkeys(namespaces or configuration.kernel.network_namespaces or (OWN_NAMESPACE,))
        self._sources = {
            name: KernelSource(partial(open_link, None if name == OWN_NAMESPACE else name), paths, limits)
            for name in wanted
        }
        self._look_seconds = look
        self._looking = asyncio.get_running_loop().call_later(look, self._look)

    @property
    def status(self) -> list[dict[str, Any]]:
        """How the sources do, for people."""
        return [{"network_namespace": name, **source.status} for name, source in self._sources.items()]

    def reload(self) -> None:
        """Read the configuration and the files it names again; what cannot be used leaves the old in place."""
        try:
            configuration = load_configuration(self._path, required=False)
            files = _files(self._path, configuration)
            if files != self._files:
                self._handshakes.configure(configuration)
                self._files = files
            self._problem = None
        except RefusedError as error:
            if self._problem != str(error):
                log.error("the configuration stays as it was: %s", error)
            self._problem = str(error)

    def _look(self) -> None:
        self.reload()
        self._looking = asyncio.get_running_loop().call_later(self._look_seconds, self._look)

    def stop_accepting(self) -> None:
        """Take no new requests."""
        for source in self._sources.values():
            source.stop_accepting()

    def close(self) -> None:
        """Answer what is open and let go."""
        self._looking.cancel()
        for source in self._sources.values():
            source.close()


def _files(path: Path, configuration: Configuration) -> list[tuple[Path, int, int]]:
    """The files that the configuration is made of, and what tells whether one was changed."""
    files = [path]
    for side in (configuration.client, configuration.server):
        files += [one for one in (side.trust, side.certificate, side.private_key) if one is not None]
        files += side.revocation_lists
    stamps = []
    for file in files:
        with suppress(OSError):
            status = file.stat()
            stamps.append((file, status.st_mtime_ns, status.st_size))
    return stamps


def _limits(configuration: Configuration) -> KernelLimits:
    limits = configuration.limits
    return KernelLimits(
        handshakes=limits.kernel_handshakes,
        client_timeout=limits.client_timeout,
        server_timeout=limits.server_timeout,
        longest_timeout=limits.longest_timeout,
    )
