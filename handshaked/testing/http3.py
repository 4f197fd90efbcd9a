"""HTTP/3 with aioquic: a client that fetches pages, and a server on a shared port, with its TLS in the daemon.

The server's page is the name of the connection's registration. Its command line is that of ``smb_server``.
"""

import asyncio

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent
from cryptography import x509

from handshaked.shim.aioquic import outcome_of
from handshaked.testing.smb_server import main


class WebClient(QuicConnectionProtocol):
    """Fetches pages. ``closed_with`` is the error code of the server's CONNECTION_CLOSE, if any."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type] # passed on unchanged
        self.alpn: str | None = None
        self.closed_with: int | None = None
        self._http: H3Connection | None = None
        self._pages: dict[int, tuple[bytearray, asyncio.Future[str]]] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        """Handle an event of the connection."""
        if isinstance(event, ConnectionTerminated):
            self.closed_with = event.error_code
            for _, page in self._pages.values():
                if not page.done():
                    page.set_exception(ConnectionError(event.reason_phrase))
        elif isinstance(event, ProtocolNegotiated):
            self.alpn = event.alpn_protocol
            self._http = H3Connection(self._quic) if self.alpn == "h3" else None
        if self._http is None:
            super().quic_event_received(event)
            return
        for part in self._http.handle_event(event):
            if isinstance(part, HeadersReceived | DataReceived) and part.stream_id in self._pages:
                body, page = self._pages[part.stream_id]
                body += part.data if isinstance(part, DataReceived) else b""
                if part.stream_ended and not page.done():
                    page.set_result(body.decode(errors="replace"))

    @property
    def certificate(self) -> x509.Certificate | None:
        """The server's certificate."""
        found: x509.Certificate | None = self._quic.tls._peer_certificate  # noqa: SLF001 - aioquic has no public access to it
        return found

    async def fetch(self, server_name: str, path: str = "/") -> str:
        """Fetch the page at `path`. ConnectionError if the connection ends early or does not use HTTP/3."""
        if self._http is None:
            raise ConnectionError(f"the server selected ALPN {self.alpn}, not h3")
        stream_id = self._quic.get_next_available_stream_id()
        page: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pages[stream_id] = bytearray(), page
        fields = {":method": "GET", ":scheme": "https", ":authority": server_name, ":path": path}
        self._http.send_headers(stream_id, [(k.encode(), v.encode()) for k, v in fields.items()], end_stream=True)
        self.transmit()
        return await page


class WebProtocol(QuicConnectionProtocol):
    """Answers each request with the name of the registration."""

    _http: H3Connection | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        """Answer the requests of the client."""
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        if self._http is None:
            return
        for part in self._http.handle_event(event):
            if isinstance(part, HeadersReceived):
                outcome = outcome_of(self)
                page = (outcome.registration or "") if outcome is not None else ""
                fields = [(b":status", b"200"), (b"content-length", b"%d" % len(page.encode()))]
                self._http.send_headers(part.stream_id, fields)
                self._http.send_data(part.stream_id, page.encode(), end_stream=True)


if __name__ == "__main__":
    main(WebProtocol)
