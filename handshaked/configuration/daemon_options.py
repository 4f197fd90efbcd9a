"""The command line of ``handshaked``."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from handshaked import __version__
from handshaked.configuration.handshaked_toml import DEFAULT_PATH
from handshaked.system import directories
from handshaked.system.command_line import RecordingParser
from handshaked.system.journal import FORMATS
from handshaked.system.process import DEFAULT_LEVEL, LEVELS

_MAX_WORKERS = 256


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """The options of the command line, by their names."""

    state_directory: Path
    runtime_directory: Path
    configuration_directory: Path
    workers: int
    log_level: str | None
    log_format: str
    bus: str
    metrics: str | None
    configuration: Path | None
    check_config: bool
    kernel: bool | None
    emulated_quic_sockets: bool
    netns: list[str]
    demux_user: str


def command_line() -> RecordingParser:
    """Return the parser of the options, for the daemon and for its manual page."""
    parser = RecordingParser(
        prog="handshaked",
        description="Perform TLS 1.3 handshakes for local QUIC and TCP endpoints, with certificates selected by server"
        " name and ALPN.",
    )
    parser.add_argument("--version", action="version", version=f"handshaked {__version__}")
    _add_files(parser)
    _add_service_options(parser)
    _add_kernel_options(parser)
    return parser


def parse_options() -> DaemonOptions:
    """Return the options that this process was started with."""
    return DaemonOptions(**vars(command_line().parse_args()))


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-directory",
        type=Path,
        default=directories.state_directory(),
        metavar="DIR",
        help="directory for registrations and their keys (root default: /var/lib/handshaked)",
    )
    parser.add_argument(
        "--runtime-directory",
        type=Path,
        default=directories.runtime_directory(),
        metavar="DIR",
        help="directory for the sockets, unless systemd opens them (root default: /run/handshaked)",
    )
    parser.add_argument(
        "--configuration-directory",
        type=Path,
        default=directories.configuration_directory(),
        metavar="DIR",
        help="directory containing registrations.d (root default: /etc/handshaked)",
    )
    parser.add_argument(
        "--configuration",
        type=Path,
        metavar="FILE",
        help=f"configuration file in TOML (default: {DEFAULT_PATH}, if it exists)",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="check the configuration and registrations.d, print the problems, and exit",
    )


def _add_service_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=_worker_count,
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of worker processes (default: one per CPU)",
    )
    parser.add_argument(
        "--demux-user",
        default="handshaked-demux",
        metavar="USER",
        help="user name or uid that may follow all registrations, without their keys (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level", choices=LEVELS, help=f"lowest level to log (default: log.level of the file, or {DEFAULT_LEVEL})"
    )
    parser.add_argument(
        "--log-format",
        choices=FORMATS,
        default="auto",
        help="log as text, JSON lines, or structured journal fields (default: auto, the journal under systemd, else"
        " text)",
    )
    parser.add_argument(
        "--bus",
        default="none",
        metavar="BUS",
        help="D-Bus to connect to: system, session, an address, or none (default)",
    )
    parser.add_argument(
        "--metrics",
        metavar="ADDRESS",
        help="serve OpenMetrics on a Unix socket (a path) or a loopback port, e.g. 127.0.0.1:9464 (default: off)",
    )


def _add_kernel_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel",
        action=argparse.BooleanOptionalAction,
        help="handle upcalls of the kernel (default: if the daemon has CAP_NET_ADMIN)",
    )
    parser.add_argument(
        "--netns",
        action="append",
        default=[],
        metavar="NAME",
        help="handle upcalls from this network namespace ('.' for the daemon's own, the default); repeatable",
    )
    parser.add_argument(
        "--emulated-quic-sockets",
        action="store_true",
        help="for tests: accept socket pairs that emulate QUIC sockets, instead of QUIC sockets",
    )


def _worker_count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {_MAX_WORKERS}")
    return number
