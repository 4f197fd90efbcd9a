"""aioquic with its TLS in the daemon: ``connect`` and ``serve`` take the arguments of those of ``aioquic.asyncio``.

``listen`` serves the connections of a registration on a UDP port that ``handshaked-demux`` shares. No private key
enters the process. All access to private members of aioquic is in this package.

Session tickets are the daemon's: a server issues as many as its registration says, and the ticket passed to a client's
handler is opaque and works for another connection through a daemon.
"""

from handshaked.shim.aioquic.demux_server import DemuxServer, listen
from handshaked.shim.aioquic.endpoints import connect, outcome_of, serve

__all__ = ["DemuxServer", "connect", "listen", "outcome_of", "serve"]
