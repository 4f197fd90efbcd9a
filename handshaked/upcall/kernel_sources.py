"""The kernel sources of one worker, one for each network namespace."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from handshaked.configuration.handshaked_toml import OWN_NAMESPACE, Configuration, load_configuration
from handshaked.datapath.ktls import capabilities, offload
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

CHECK_SECONDS = 60.0
"""Interval at which the configuration and its files are checked for changes."""


class KernelSources:
    """The sources for `namespaces`, by default those in the configuration file at `path`.

    Changes of its files are looked for every `interval` seconds; `open_link` connects to a network namespace.
    """

    def __init__(
        self,
        service: HandshakeService,
        path: Path,
        namespaces: tuple[str, ...],
        *,
        open_link: Callable[[str | None], Link] = NetlinkLink,
        interval: float = CHECK_SECONDS,
    ) -> None:
        self._path = path
        self._problem: str | None = None
        configuration = load_configuration(path, required=False)
        self._files = _files(path, configuration)
        self._handshakes = KernelHandshakes(service, configuration, offload)
        capabilities()  # probed now, not during the first handshake
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
        self._interval = interval
        self._timer = asyncio.get_running_loop().call_later(interval, self._check)

    @property
    def status(self) -> list[dict[str, Any]]:
        """The state of each source, for administrators."""
        return [{"network_namespace": name, **source.status} for name, source in self._sources.items()]

    def reload(self) -> None:
        """Reload the configuration and its files; if one is invalid, the current configuration stays in use."""
        try:
            configuration = load_configuration(self._path, required=False)
            files = _files(self._path, configuration)
            if files != self._files:
                self._handshakes.configure(configuration)
                self._files = files
            self._problem = None
        except RefusedError as error:
            if self._problem != str(error):
                log.error("cannot reload the configuration, the current one stays in use: %s", error)
            self._problem = str(error)

    def _check(self) -> None:
        self.reload()
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._check)

    def stop_accepting(self) -> None:
        """Accept no new requests."""
        for source in self._sources.values():
            source.stop_accepting()

    def close(self) -> None:
        """Answer all open requests and disconnect."""
        self._timer.cancel()
        for source in self._sources.values():
            source.close()


def _files(path: Path, configuration: Configuration) -> list[tuple[Path, int, int]]:
    """Return the files of the configuration with their modification times and sizes."""
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
