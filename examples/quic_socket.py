"""Do a handshake on a QUIC socket of the kernel.

usage: quic_socket.py server
       quic_socket.py server CERTIFICATE KEY
       quic_socket.py client SERVER_NAME ALPN [ROOT]

The socket is standard input, as inetd or systemd (StandardInput=socket) passes it: an accepted socket for a server, a
connected one for a client. CERTIFICATE, KEY and ROOT are PEM files.
"""

import socket
import ssl
import sys
from pathlib import Path

from handshaked.shim import (
    HandshakeRefusedError,
    Outcome,
    QuicSocketOptions,
    quic_client_handshake,
    quic_server_handshake,
)


def server(sock: socket.socket) -> Outcome:
    """Do the server's handshake with the certificate registered for the client's server name and protocol."""
    return quic_server_handshake(sock)


def server_with_own_files(sock: socket.socket, certificate: str, key: str) -> Outcome:
    """Do the server's handshake with a certificate and key of its own, in at most 5 seconds."""
    options = QuicSocketOptions(certificate=Path(certificate), key=Path(key), timeout=5.0)
    return quic_server_handshake(sock, options=options)


def client(sock: socket.socket, server_name: str, alpn: str, *roots: str) -> Outcome:
    """Do the client's handshake and verify the server; without `roots`, by the daemon's trust store."""
    anchors = tuple(ssl.PEM_cert_to_DER_cert(Path(root).read_text()) for root in roots)
    return quic_client_handshake(sock, server_name, (alpn,), QuicSocketOptions(trust_anchors=anchors))


def main() -> None:
    """Do a handshake on standard input and print how it ended."""
    with socket.socket(fileno=sys.stdin.fileno()) as sock:
        try:
            match sys.argv[1:]:
                case ["server"]:
                    outcome = server(sock)
                case ["server", certificate, key]:
                    outcome = server_with_own_files(sock, certificate, key)
                case ["client", server_name, alpn, *roots]:
                    outcome = client(sock, server_name, alpn, *roots)
                case _:
                    sys.exit(__doc__)
        except HandshakeRefusedError as error:
            sys.exit(f"handshake failed: {error.strerror}")
        # After success the socket is ready for sendmsg and recvmsg.
        print(f"ALPN {(outcome.alpn or b'').decode()}, registration {outcome.registration}")


if __name__ == "__main__":
    main()
