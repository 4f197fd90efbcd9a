"""The command line of ``handshakectl``: names and options, without the code that carries commands out.

Completions and manual pages are made from it. ``handshaked.cli`` maps each command to its function.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from handshaked import __version__
from handshaked.system import directories
from handshaked.system.command_line import RecordingParser

Command = Callable[..., RecordingParser]

SHELLS = ("bash", "zsh", "fish")
PAGES = ("handshakectl.1", "handshaked.8", "handshaked-demux.8")
"""The manual pages, by file name."""


def command_line() -> RecordingParser:
    """All commands and options."""
    parser = RecordingParser(prog="handshakectl", description="Control handshaked.")
    parser.add_argument("--version", action="version", version=f"handshakectl {__version__}")
    group = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=RecordingParser)

    def command(name: str, words: str, *, daemon: bool = True) -> RecordingParser:
        sub: RecordingParser = group.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
        sub.set_defaults(command=name, parser=sub)
        parser.commands[name] = sub
        if daemon:
            sub.add_argument(
                "--socket",
                type=Path,
                default=directories.control_socket(),
                help="the daemon's control socket",
            )
            sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    _add_commands_on_registrations(command)
    _add_commands_that_watch(command)
    command("doctor", "look for what is wrong, and say how to mend it")
    _add_commands_on_grants(command)
    _add_install_options(command)
    _add_import_options(command("import-tlshd", "take over the configuration of tlshd", daemon=False))
    return parser


def _add_commands_on_registrations(command: Command) -> None:
    _add_register_options(command("register", "register certificates for server names and ALPNs"))
    _add_name(command("unregister", "remove a registration"))
    command("list", "list the registrations you may see")
    _add_name(command("show", "show one registration"))
    _add_explain_options(command("explain", "tell what a ClientHello would get, and why"))
    _add_test_options(command("test", "do a real handshake for a registration"))
    command("reload", "look at all certificate, key and drop-in files again")


def _add_commands_that_watch(command: Command) -> None:
    command("status", "show how the daemon does; exit code 1 if something is wrong")
    sub = command("recent", "show the latest handshakes")
    sub.add_argument("--limit", type=int, default=20, metavar="N", help="how many, 20 unless given, at most 100")
    _add_filter(sub)
    sub = command("monitor", "show handshakes as they end")
    sub.add_argument("--count", type=int, default=0, metavar="N", help="end after so many")
    _add_filter(sub)
    sub = command("top", "show rates, latencies and failures")
    sub.add_argument("--once", action="store_true", help="print the numbers since the daemon's start, and end")
    sub.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="seconds between two looks")


def _add_commands_on_grants(command: Command) -> None:
    _add_grant_options(command("grant", "let a user register certain names"))
    sub = command("revoke", "take a grant back; what was registered by it stays")
    sub.add_argument("id", type=int, help="the grant's number")
    command("grants", "list the grants you hold; for root, all of them")


def _add_import_options(sub: RecordingParser) -> None:
    sub.add_argument("--config", type=Path, metavar="F", help="tlshd's file; else /etc/tlshd/config, /etc/tlshd.conf")
    sub.add_argument("--tags", type=Path, metavar="DIR", help="its tags; else /etc/tlshd/tags.d")
    sub.add_argument("--into", type=Path, metavar="DIR", help="write here; else into /etc/handshaked")
    sub.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="look and work below this directory")
    sub.add_argument("--print", action="store_true", help="print what would be written")


def _add_install_options(command: Command) -> None:
    for name, words in (
        ("install-systemd", "put units, users, D-Bus files, completions and manual pages in place"),
        ("uninstall-systemd", "take them away again; settings and registrations stay"),
    ):
        sub = command(name, words, daemon=False)
        sub.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="work below this directory")
        sub.add_argument("--now", action="store_true", help="start, or stop, the service too")
    sub = command("completion", "print the completion script of a shell", daemon=False)
    sub.add_argument("shell", choices=SHELLS, help="which shell")
    sub = command("manual", "print a manual page, in roff", daemon=False)
    sub.add_argument("page", choices=PAGES, help="which page")


def _add_name(sub: RecordingParser) -> None:
    sub.add_argument("name", help="the registration's name")


def _add_explain_options(sub: RecordingParser) -> None:
    sub.add_argument("--server-name", metavar="N", help="the SNI; without it, a client that sends none")
    sub.add_argument(
        "--alpn", action="append", default=[], metavar="A", help="in the client's order; none: it sends none"
    )
    sub.add_argument("--user", metavar="U", help="on behalf of this user (or uid, or 'kernel')")


def _add_test_options(sub: RecordingParser) -> None:
    _add_name(sub)
    sub.add_argument("--server-name", metavar="N", help="ask for this name; without it, the registration's first")
    sub.add_argument("--alpn", metavar="A", help="ask for this protocol; without it, the registration's first")
    sub.add_argument("--ca", metavar="F", help="PEM certificates to trust instead of the system's")
    sub.add_argument("--connect", metavar="HOST:PORT", help="with the server there, which must use the registration")
    sub.add_argument("--transport", choices=("quic", "tcp"), default="quic", help="how to connect, quic unless given")
    sub.add_argument("--timeout", type=_seconds, default=8.0, metavar="S", help="seconds to wait, 8 unless given")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 60:
        raise argparse.ArgumentTypeError("a number from 0.1 to 60 is wanted")
    return seconds


def _add_filter(sub: RecordingParser) -> None:
    sub.add_argument("--failed", action="store_true", help="only those that failed")
    sub.add_argument("--registration", metavar="NAME", help="only those of this registration")
    sub.add_argument("--role", choices=("client", "server"), help="only those in which the daemon is this")
    sub.add_argument("--server-name", metavar="PATTERN", help="only those for names like this, e.g. '*.example.com'")


def _add_grant_options(sub: RecordingParser) -> None:
    sub.add_argument("--user", metavar="U", help="who may")
    sub.add_argument("--group", metavar="G", help="whose members may")
    sub.add_argument("--alpn", action="append", required=True, metavar="A", help="protocol; may be repeated")
    sub.add_argument(
        "--server-name",
        action="append",
        default=[],
        metavar="N",
        help="name; *.name: every name one label below, too; none given: registrations without a name",
    )
    sub.add_argument("--allow-kernel", action="store_true", help="they may let upcalls of the kernel use them")


def _add_policy_options(sub: RecordingParser) -> None:
    sub.add_argument(
        "--client-auth", choices=("none", "request", "require"), default="none", help="ask clients for certificates"
    )
    sub.add_argument("--client-ca", metavar="F", help="PEM trust anchors for them; else the system's")
    sub.add_argument("--client-crl", metavar="F", help="PEM revocation lists for them")
    sub.add_argument(
        "--peer", action="append", default=[], metavar="RULE", help="on the kernel's peers: 'allow san=dns:*.a tag=b'"
    )
    sub.add_argument(
        "--ocsp", action="append", default=[], metavar="F", help="DER OCSP response to staple, one a credential"
    )
    sub.add_argument("--tickets", type=int, default=1, metavar="N", help="session tickets a client gets (1; 0: none)")
    sub.add_argument(
        "--early-data", action="store_true", help="let tickets bring 0-RTT data, where the endpoint takes it"
    )
    sub.add_argument("--cipher-suite", action="append", default=[], metavar="C", help="allow these only, best first")
    sub.add_argument(
        "--group", action="append", default=[], metavar="G", help="allow these key exchange groups only, best first"
    )
    sub.add_argument(
        "--deliver",
        nargs="+",
        default=["accept"],
        metavar="HOW",
        help="how handshaked-demux delivers connections: accept, relay, or forward ADDRESS:PORT",
    )
    sub.add_argument("--proxy-protocol", action="store_true", help="forward with a PROXY protocol v2 header")


def _add_register_options(sub: RecordingParser) -> None:
    sub.add_argument("name", help="what to call the registration")
    sub.add_argument("--cert", action="append", default=[], metavar="F", help="PEM chain, leaf first; may be repeated")
    sub.add_argument("--key", action="append", default=[], metavar="F", help="PEM private key of that --cert")
    sub.add_argument("--pkcs12", action="append", default=[], metavar="F", help="key and chain in one PKCS#12 file")
    sub.add_argument("--passphrase-file", action="append", default=[], metavar="F", help="holds the key's passphrase")
    sub.add_argument("--alpn", action="append", default=[], metavar="A", help="protocol; \\xNN for other bytes")
    sub.add_argument("--server-name", action="append", default=[], metavar="N", help="name or *.name; none: any name")
    sub.add_argument("--allow-user", action="append", default=[], metavar="U", help="who else may use it")
    sub.add_argument("--allow-group", action="append", default=[], metavar="G", help="whose members may use it")
    sub.add_argument("--allow-kernel", action="store_true", help="upcalls of the kernel may use it")
    _add_policy_options(sub)
    sub.add_argument("--replace", action="store_true", help="replace the registration of that name")
    sub.add_argument("--force", action="store_true", help="accept expired or not yet valid certificates, for testing")
