"""The kernel sources of one worker, one for each network namespace."""

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from handshaked.configuration.handshaked_toml import OWN_NAMESPACE, Configuration
from handshaked.datapath.ktls import capabilities, offload
from handshaked.datapath.quic_options import IPPROTO_QUIC
from handshaked.datapath.quic_socket import kernel_quic_socket
from handshaked.handshakes.kernel_tcp import KernelHandshakes
from handshaked.handshakes.quic_sockets import QuicSocketHandshakes
from handshaked.handshakes.service import HandshakeService
from handshaked.handshakes.side_files import SideFiles
from handshaked.upcall.kernel import KernelLimits, KernelSource, OpenPath
from handshaked.upcall.kernel_connection import Link
from handshaked.upcall.kernel_sockets import NetlinkLink


class KernelSources:
    """The sources for `namespaces`, by the settings in `files`; `open_link` connects to a network namespace."""

    def __init__(
        self,
        service: HandshakeService,
        files: SideFiles,
        namespaces: tuple[str, ...] = (OWN_NAMESPACE,),
        *,
        open_link: Callable[[str | None], Link] = NetlinkLink,
    ) -> None:
        configuration = files.configuration
        self._handshakes = KernelHandshakes(service, configuration, offload, files.content)
        capabilities()  # probed now, not during the first handshake
        limits = _limits(configuration)
        quic_sockets = QuicSocketHandshakes(service, kernel_quic_socket)
        paths: dict[int, OpenPath] = {
            socket.IPPROTO_TCP: self._handshakes.open,
            IPPROTO_QUIC: partial(quic_sockets.open_for_kernel, self._handshakes),
        }
        self._sources = {
            name: KernelSource(partial(open_link, None if name == OWN_NAMESPACE else name), paths, limits)
            for name in dict.fromkeys(namespaces)
        }

    @property
    def status(self) -> list[dict[str, Any]]:
        """The state of each source, for administrators."""
        return [{"network_namespace": name, **source.status} for name, source in self._sources.items()]

    def reload(self, files: SideFiles) -> None:
        """Use `files` from now on, which the parent has checked."""
        self._handshakes.configure(files.configuration, files.content)

    def stop_accepting(self) -> None:
        """Accept no new requests."""
        for source in self._sources.values():
            source.stop_accepting()

    def close(self) -> None:
        """Answer all open requests and disconnect."""
        for source in self._sources.values():
            source.close()


def _limits(configuration: Configuration) -> KernelLimits:
    limits = configuration.limits
    return KernelLimits(
        handshakes=limits.kernel_handshakes,
        client_timeout=limits.client_timeout,
        server_timeout=limits.server_timeout,
        longest_timeout=limits.longest_timeout,
    )
