"""The command line of ``handshaked-demux``."""

import argparse
import asyncio
import logging
import os
import socket
import sys
from pathlib import Path

from handshaked import __version__
from handshaked.demux.binder import serve
from handshaked.demux.binder_client import BinderSockets
from handshaked.demux.daemon import Demux, Settings
from handshaked.demux.dispatcher import Bounds
from handshaked.demux.forwarded_flow import ForwarderBounds
from handshaked.demux.shared_port import claim_shared, take_shared
from handshaked.errors import HandshakedError, RefusedError
from handshaked.system import directories
from handshaked.system.capabilities import Capability, explain
from handshaked.system.command_line import RecordingParser
from handshaked.system.connecting import connect
from handshaked.system.listening import lock_file, open_listener, still_bound
from handshaked.system.process import LEVELS, forbid_core_dumps, raise_descriptor_limit, start_logging
from handshaked.system.systemd import inherited_sockets
from handshaked.wire.addresses import Address, parse_address, show_address
from handshaked.wire.demux import MAX_PACKET, StatusAnswer, pull_from_demux, push_status

log = logging.getLogger(__name__)

_DEFAULT_LISTEN = ("0.0.0.0:443", "[::]:443")
_STATUS_SECONDS = 10.0
_BINDER_SECONDS = 10.0


def main() -> None:
    """Run the demultiplexer in the foreground, or print the counters of the running one."""
    arguments = command_line().parse_args()
    if arguments.status:
        sys.exit(_show_status(arguments.socket))
    forbid_core_dumps()
    start_logging(arguments.log_level, "handshaked-demux")
    try:
        if arguments.serve_sockets is not None:
            _serve_sockets(arguments.serve_sockets)
            return
        asyncio.run(_run(arguments, raise_descriptor_limit()))
    except (OSError, HandshakedError) as error:
        log.error("cannot run: %s", error)
        sys.exit(1)


async def _run(arguments: argparse.Namespace, descriptors: int) -> None:
    inherited = [sock for _, sock in inherited_sockets()]
    shared = [take_shared(sock) for sock in inherited if sock.family != socket.AF_UNIX]
    passed = next((sock for sock in inherited if sock.family == socket.AF_UNIX), None)
    path = arguments.socket if passed is None else Path(passed.getsockname())
    if passed is not None and not still_bound(passed, path):
        passed = None
    lock = None if passed else _lock(path)
    listener = passed or open_listener(path)
    if not shared:
        shared = [_open(address) for address in arguments.listen or map(parse_address, _DEFAULT_LISTEN)]
    bounds = ForwarderBounds(connected=arguments.connected, idle_seconds=arguments.idle_timeout)
    settings = Settings(
        control_socket=arguments.control,
        bounds=Bounds(retry_from=arguments.retry_from),
        forwarder=bounds.within(descriptors),
    )
    log.info("handshaked-demux %s, following the registrations of %s", __version__, arguments.control)
    sockets = None
    if arguments.sockets is not None:
        sockets = BinderSockets(arguments.sockets, shared)
        sockets.fill(_BINDER_SECONDS)
    await Demux(settings, shared, listener, sockets).run()
    if sockets is not None:
        sockets.close()
    if lock is not None:
        os.close(lock)


def _serve_sockets(path: Path) -> None:
    """Run as the binder, at the socket that systemd passed or else at `path`."""
    inherited = [sock for _, sock in inherited_sockets()]
    lock = None if inherited else _lock(path)
    with inherited[0] if inherited else open_listener(path) as listener:
        serve(listener)
    if lock is not None:
        os.close(lock)


def command_line() -> RecordingParser:
    """Return the parser of ``handshaked-demux``, which its manual page is made from, too."""
    parser = RecordingParser(
        prog="handshaked-demux",
        description="Share UDP ports among QUIC servers, by registered server names and ALPN protocols.",
    )
    parser.add_argument("--version", action="version", version=f"handshaked-demux {__version__}")
    _add_sockets(parser)
    _add_bounds(parser)
    parser.add_argument(
        "--status", action="store_true", help="print the counters of the running demultiplexer and exit"
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="log level (default: info)")
    return parser


def _add_sockets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        action="append",
        type=_address,
        metavar="ADDRESS:PORT",
        help="UDP address to listen on; repeatable"
        f" (default: the sockets passed by systemd, else {' and '.join(_DEFAULT_LISTEN)})",
    )
    parser.add_argument(
        "--socket",
        type=Path,
        default=directories.demux_directory() / directories.DEMUX_SOCKET,
        help="Unix socket for applications (root default: /run/handshaked-demux/accept.sock)",
    )
    parser.add_argument(
        "--control",
        type=Path,
        default=directories.control_socket(),
        help="control socket of handshaked (root default: /run/handshaked/control.sock)",
    )

    parser.add_argument(
        "--sockets",
        type=Path,
        metavar="PATH",
        help="have sockets opened by the process at this Unix socket, which runs with --serve-sockets (default: open"
        " them)",
    )
    parser.add_argument(
        "--serve-sockets",
        type=Path,
        metavar="PATH",
        help="only open sockets for another handshaked-demux, at this Unix socket unless systemd passes one",
    )


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--retry-from",
        type=int,
        default=Bounds().retry_from,
        metavar="N",
        help="new connections per second above which clients must validate their address with a Retry"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--connected",
        type=int,
        default=ForwarderBounds().connected,
        metavar="N",
        help="maximum number of sockets connected to clients; further connections use the shared socket"
        " (default: by kernel version, see docs/explanation/port-sharing.md)",
    )
    parser.add_argument(
        "--idle-timeout",
        type=float,
        default=ForwarderBounds().idle_seconds,
        metavar="SECONDS",
        help="seconds after which a flow without packets is dropped (default: %(default)g)",
    )


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _open(address: Address) -> socket.socket:
    try:
        return claim_shared(address)
    except OSError as error:
        raise RefusedError(
            f"cannot listen on {show_address(address)}: {explain(error, Capability.NET_BIND_SERVICE)}"
        ) from None


def _lock(path: Path) -> int:
    """Make sure that no other demultiplexer uses the socket at `path`; return the descriptor of the lock."""
    return lock_file(path.with_suffix(".lock"), f"another handshaked-demux is running at {path}")


def _show_status(path: Path) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(_STATUS_SECONDS)
        try:
            connect(sock, path)
            sock.send(push_status(1))
            answers = [message for _, message in pull_from_demux(sock.recv(MAX_PACKET))]
        except OSError as error:
            print(f"handshaked-demux: cannot connect to {path}: {error}", file=sys.stderr)
            return 1
    for answer in answers:
        if isinstance(answer, StatusAnswer):
            print(answer.metrics, end="")
    return 0


if __name__ == "__main__":
    main()
