"""``test``: a real handshake with a registration, by the daemon alone or with a server that uses it."""

import argparse
import asyncio
import hashlib
import socket
import ssl
import sys
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.cli.output import Result, ask, console, print_fields, print_json
from handshaked.errors import RefusedError, Status
from handshaked.events import CryptoData
from handshaked.model import AuthMode, Outcome, Role
from handshaked.registry.delivery import Way, parse_delivery
from handshaked.registry.names import parse_alpn
from handshaked.shim import BlockingClient, Message
from handshaked.system import directories
from handshaked.tls.x509.readers import read_trust_store
from handshaked.wire.messages import Done, Start

_TRANSPORT_PARAMETERS = b"\x04\x01\x00"  # initial_max_data 0: RFC 9000 section 18.2


def test(arguments: argparse.Namespace) -> int:
    """Run ``test``; return 0 if the handshake completed with a verified certificate of the registration.

    A registration that forwards is tested with the server that it forwards to, which has a certificate of its own.
    """
    registration = ask(arguments, "show", {"name": arguments.name})["registration"]
    forwards = parse_delivery(registration["policy"]["deliver"]).way is Way.FORWARD
    if forwards and not arguments.connect:
        arguments.connect = _destination(registration)
    server_name = arguments.server_name or _server_name(registration)
    alpn = parse_alpn(arguments.alpn or (registration["alpns"] or [""])[0])
    anchors = _anchors(arguments.ca)
    if arguments.connect:
        result = _with_server(arguments, server_name, alpn)
    else:
        result = _with_daemon(arguments, server_name, alpn, anchors)
    expected = {credential["sha256"] for credential in registration["credentials"]}
    result["registered"] = None if forwards else result["certificate"] in expected
    result["ok"] = result["done"] and result["registered"] is not False and result["verified"]
    if arguments.json:
        print_json(result)
    else:
        _print(arguments.name, result)
    return 0 if result["ok"] else 1


def _destination(registration: Result) -> str:
    """Return HOST:PORT of the server that `registration` forwards to; RefusedError if it expects a PROXY header."""
    destination = registration["policy"]["deliver"].removeprefix("forward ")
    if registration["policy"]["proxy_protocol"]:
        raise RefusedError(
            f"the server at {destination} expects a PROXY protocol header: use --connect with the shared port"
        )
    return str(destination)


def _server_name(registration: Result) -> str:
    names = registration["server_names"]
    return names[0].replace("*", "test") if names else "localhost"


def _with_daemon(arguments: argparse.Namespace, server_name: str, alpn: bytes, anchors: tuple[bytes, ...]) -> Result:
    path = arguments.socket.with_name(directories.HANDSHAKE_SOCKET)
    server, client = _handshake(path, server_name, alpn, arguments.timeout, AuthMode.X509, anchors)
    reason = client.reason if client.status != Status.OK else ""
    if reason:
        server, client = _handshake(path, server_name, alpn, arguments.timeout, AuthMode.UNAUTH, ())
    failure = server.reason if server.status != Status.OK else client.reason
    return {
        "server_name": server_name,
        "alpn": arguments.alpn or alpn.decode(errors="backslashreplace"),
        "done": server.status == Status.OK and client.status == Status.OK,
        "verified": not reason,
        "reason": failure or reason,
        "certificate": _digest(client.peer_certificates),
        "served_by": server.registration,
        "cipher": None if server.cipher_suite is None else server.cipher_suite.name,
    }


def _handshake(
    path: Path, server_name: str, alpn: bytes, seconds: float, auth_mode: AuthMode, anchors: tuple[bytes, ...]
) -> tuple[Outcome, Outcome]:
    """Return the outcomes of both sides of a handshake; the daemon plays both."""
    asked = Start(
        role=Role.CLIENT, timeout=seconds, auth_mode=auth_mode, alpns=(alpn,), server_name=server_name,
        transport_parameters=_TRANSPORT_PARAMETERS, trust_anchors=anchors,
    )  # fmt: skip
    outcomes: dict[Role, Outcome] = {}
    try:
        with BlockingClient(path) as server, BlockingClient(path) as client:
            sides = {Role.SERVER: server, Role.CLIENT: client}
            todo: list[tuple[Role, Message]] = [
                (Role.SERVER, message)
                for message in server.start(
                    Start(role=Role.SERVER, timeout=seconds, transport_parameters=_TRANSPORT_PARAMETERS)
                )
            ]
            todo += [(Role.CLIENT, message) for message in client.start(asked)]
            while todo:
                role, message = todo.pop(0)
                other = Role.SERVER if role is Role.CLIENT else Role.CLIENT
                if isinstance(message, Done):
                    outcomes[role] = message.outcome
                elif isinstance(message, CryptoData) and other not in outcomes:
                    todo += [(other, answer) for answer in sides[other].receive(message.level, message.data)]
    except OSError as error:
        raise RefusedError(f"{path}: {error}") from None
    unknown = Outcome(reason="the other side ended the handshake first")
    return outcomes.get(Role.SERVER, unknown), outcomes.get(Role.CLIENT, unknown)


def _with_server(arguments: argparse.Namespace, server_name: str, alpn: bytes) -> Result:
    host, _, port = arguments.connect.rpartition(":")
    if not host or not port.isdecimal():
        raise RefusedError(f"--connect {arguments.connect}: must be HOST:PORT")
    host = host.strip("[]")
    common: Result = {"server_name": server_name, "alpn": alpn.decode(errors="backslashreplace"), "served_by": None}
    connect = _over_tcp if arguments.transport == "tcp" else _over_quic
    return common | connect(arguments, (host, int(port)), server_name, alpn)


def _over_tcp(arguments: argparse.Namespace, address: tuple[str, int], server_name: str, alpn: bytes) -> Result:
    verified, reason = True, ""
    try:
        certificate, cipher = _tcp_handshake(arguments, address, server_name, alpn, verify=True)
    except ssl.SSLCertVerificationError as error:
        verified, reason = False, error.verify_message
        certificate, cipher = _tcp_handshake(arguments, address, server_name, alpn, verify=False)
    return {
        "done": True,
        "verified": verified,
        "reason": reason,
        "certificate": _digest((certificate,)),
        "cipher": cipher,
    }


def _tcp_handshake(
    arguments: argparse.Namespace, address: tuple[str, int], server_name: str, alpn: bytes, *, verify: bool
) -> tuple[bytes, str]:
    context = ssl.create_default_context(cadata=b"".join(_anchors(arguments.ca)) or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([alpn.decode("latin-1")])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(address, arguments.timeout) as plain,
            context.wrap_socket(plain, server_hostname=server_name) as sock,
        ):
            cipher = sock.cipher()
            return sock.getpeercert(binary_form=True) or b"", cipher[0] if cipher else ""
    except ssl.SSLCertVerificationError:
        raise
    except OSError as error:
        raise RefusedError(f"{address[0]}:{address[1]}: {error.strerror or error}") from None


def _over_quic(arguments: argparse.Namespace, address: tuple[str, int], server_name: str, alpn: bytes) -> Result:
    def connect(verify: bool) -> Outcome:
        return asyncio.run(_quic_outcome(arguments, address, server_name, alpn, verify=verify))

    outcome = connect(True)
    reason = outcome.reason if outcome.status != Status.OK else ""
    if reason and outcome.status != Status.TIMED_OUT:
        outcome = connect(False)
    return {
        "done": outcome.status == Status.OK,
        "verified": not reason,
        "reason": reason,
        "certificate": _digest(outcome.peer_certificates),
        "cipher": None if outcome.cipher_suite is None else outcome.cipher_suite.name,
    }


async def _quic_outcome(
    arguments: argparse.Namespace, address: tuple[str, int], server_name: str, alpn: bytes, *, verify: bool
) -> Outcome:
    """Return the outcome of one connection by QUIC; its status is TIMED_OUT if the server does not answer."""
    # Imported here: aioquic takes 0.2 s to load, and no other command needs it.
    from aioquic.quic.configuration import QuicConfiguration

    from handshaked.shim import HandshakeClient
    from handshaked.shim.aioquic import connect, outcome_of

    configuration = QuicConfiguration(is_client=True, alpn_protocols=[alpn.decode("latin-1")])
    configuration.server_name = server_name
    configuration.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    configuration.cadata = "".join(map(ssl.DER_cert_to_PEM_cert, _anchors(arguments.ca))).encode() or None
    client = HandshakeClient(arguments.socket.with_name(directories.HANDSHAKE_SOCKET))
    protocol = None
    answered = True
    try:
        async with connect(*address, configuration=configuration, client=client, wait_connected=False) as protocol:
            connected = asyncio.create_task(protocol.wait_connected())
            await asyncio.wait([connected], timeout=arguments.timeout)
            if not connected.done():
                answered = False
                protocol.close()  # ends the wait; aioquic logs an error if it is cancelled instead
            await connected
    except OSError as error:
        ended = outcome_of(protocol) if protocol is not None and answered else None
        words = error.strerror or str(error) or "no answer"
        return ended or Outcome(Status.TIMED_OUT, reason=f"{arguments.connect}: {words}")
    finally:
        client.close()
    return outcome_of(protocol) or Outcome()


@cache
def _anchors(path: str | None) -> tuple[bytes, ...]:
    """Return the certificates of the file `path` in DER, none for None: the only reader of ``--ca``.

    Those that cannot be used are left out, and named once.
    """
    if path is None:
        return ()
    try:
        store = read_trust_store(Path(path).read_bytes(), path)
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from None
    for one in store.left_out:
        print(f"handshakectl: warning: left out: {one}", file=sys.stderr)
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in store)


def _digest(chain: tuple[bytes, ...]) -> str | None:
    return hashlib.sha256(chain[0]).hexdigest() if chain and chain[0] else None


def _print(name: str, result: Result) -> None:
    fields = {
        "server name": result["server_name"],
        "ALPN": result["alpn"],
        "handshake": "completed" if result["done"] else f"failed: {result['reason']}",
    }
    if result["done"]:
        fields["cipher"] = result["cipher"]
        known = f"registered as {name}" if result["registered"] else f"not one of {name}"
        fields["certificate"] = (
            "of the server that connections are forwarded to" if result["registered"] is None else known
        )
        fields["verified"] = "yes" if result["verified"] else f"no: {result['reason']}"
    if result["served_by"] not in (None, name):
        fields["served by"] = f"{result['served_by']}, see: handshakectl explain"
    print_fields(fields)
    console.print("ok" if result["ok"] else "not ok", style="green" if result["ok"] else "bold red")
