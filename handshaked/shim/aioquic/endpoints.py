"""aioquic clients and servers on UDP ports of their own."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aioquic.asyncio import client as aioquic_client
from aioquic.asyncio import server as aioquic_server
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.model import Outcome
from handshaked.shim.aioquic.adapter import AdapterOptions, create_adapted
from handshaked.shim.aioquic.remote_tls import RemoteTls
from handshaked.shim.client import HandshakeClient
from handshaked.shim.regular_files import open_regular

_IN_THE_DAEMON = object()


@asynccontextmanager
async def connect(
    host: str,
    port: int,
    *,
    configuration: QuicConfiguration,
    client: HandshakeClient,
    registration: str | None = None,
    create_protocol: Callable[..., QuicConnectionProtocol] = QuicConnectionProtocol,
    **options: Any,
) -> AsyncGenerator[QuicConnectionProtocol, None]:
    """Connect like ``aioquic.asyncio.connect``, with TLS done by the daemon that `client` talks to.

    The trust anchors of `configuration` (cafile, cadata) are sent along; without any, the daemon's trust store applies.
    `registration` names the client certificate for servers that request one. ValueError if `configuration` holds a
    private key or sets capath.
    """
    _refuse_private_key(configuration)
    anchors = await asyncio.to_thread(_trust_anchors, configuration)
    create = partial(create_adapted, create_protocol, client, AdapterOptions(registration, anchors))
    async with aioquic_client.connect(
        host, port, configuration=configuration, create_protocol=create, **options
    ) as protocol:
        yield protocol


async def serve(
    host: str,
    port: int,
    *,
    configuration: QuicConfiguration,
    client: HandshakeClient,
    registration: str | None = None,
    early_data: bytes | None = None,
    create_protocol: Callable[..., QuicConnectionProtocol] = QuicConnectionProtocol,
    **options: Any,
) -> QuicServer:
    """Serve like ``aioquic.asyncio.serve``, with the certificate registered for the client's server name and ALPN.

    `configuration.alpn_protocols` (None: all) and `registration` (None: any that this user may use) limit the choice.

    `early_data` consents to 0-RTT where the registration allows it. Its bytes identify everything that data of an
    earlier visit relies on (limits, settings): change them whenever that changes. An attacker can replay early data
    at other daemons that share the ticket keys, so processing it twice must be harmless.

    ValueError if `configuration` holds a private key.
    """
    create = partial(create_adapted, create_protocol, client, AdapterOptions(registration, (), early_data))
    return await aioquic_server.serve(
        host, port, configuration=server_configuration(configuration), create_protocol=create, **options
    )


def server_configuration(
    configuration: QuicConfiguration, connection_id_length: int | None = None
) -> QuicConfiguration:
    """Return `configuration` for a server whose TLS is in the daemon. ValueError if it holds a private key."""
    _refuse_private_key(configuration)
    # aioquic requires a certificate and a key of a server, and gives them to the tls.Context that is replaced.
    return replace(
        configuration,
        certificate=_IN_THE_DAEMON,
        private_key=_IN_THE_DAEMON,
        connection_id_length=connection_id_length or configuration.connection_id_length,
    )


def outcome_of(protocol: QuicConnectionProtocol) -> Outcome | None:
    """Return the outcome of the daemon's handshake for `protocol`, or None while it is in progress."""
    remote: object = protocol._quic.tls
    return remote.outcome if isinstance(remote, RemoteTls) else None


def _refuse_private_key(configuration: QuicConfiguration) -> None:
    if configuration.private_key is not None:
        raise ValueError("the configuration holds a private key: register it with the daemon instead")


def _trust_anchors(configuration: QuicConfiguration) -> tuple[bytes, ...]:
    bundles = [configuration.cadata] if configuration.cadata else []
    if configuration.cafile:
        with open_regular(Path(configuration.cafile)) as file:
            bundles.append(file.read())
    if configuration.capath:
        raise ValueError("capath is not supported: use cafile, cadata, or the daemon's trust store")
    return tuple(
        certificate.public_bytes(Encoding.DER)
        for bundle in bundles
        for certificate in x509.load_pem_x509_certificates(bundle)
    )
