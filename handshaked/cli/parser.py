"""The command line of ``handshakectl``: names and options, without the code that carries commands out.

Completions and manual pages are made from it. ``handshaked.cli`` maps each command to its function.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from handshaked import __version__
from handshaked.cli.credential_options import BEGINNINGS, PKCS12, CredentialOption
from handshaked.registry.settings import CREDENTIAL, FORCE, REPLACE, SETTINGS
from handshaked.system import directories
from handshaked.system.command_line import RecordingParser

Command = Callable[..., RecordingParser]

SHELLS = ("bash", "zsh", "fish")
PROGRAM_PAGES = ("handshakectl.1", "handshaked.8", "handshaked-demux.8")
PAGES = (*PROGRAM_PAGES, "handshaked.toml.5", "registrations.d.5")
"""The manual pages, by file name."""


def command_line() -> RecordingParser:
    """Return the parser with all commands and options."""
    parser = RecordingParser(
        prog="handshakectl",
        description="Register certificates with handshaked, see what it does with them, and look after it.",
    )
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
                help="control socket of the daemon (root default: /run/handshaked/control.sock)",
            )
            sub.add_argument("--json", action="store_true", help="print JSON for programs")
        return sub

    _add_commands_on_registrations(command)
    _add_commands_that_watch(command)
    command("doctor", "check the installation and suggest fixes; exits with 1 if something is broken")
    _add_commands_on_grants(command)
    _add_install_options(command)
    _add_import_options(
        command(
            "import-tlshd",
            "import the configuration of tlshd; exits with 1 if part of it cannot be expressed",
            daemon=False,
        )
    )
    return parser


def _add_commands_on_registrations(command: Command) -> None:
    _add_register_options(
        command("register", "register certificates for server names and application protocols (ALPN)")
    )
    _add_name(command("unregister", "remove a registration"))
    command("list", "list the registrations that you may see")
    _add_name(command("show", "show one registration"))
    _add_explain_options(command("explain", "show which registration a ClientHello would select, and why"))
    _add_test_options(command("test", "test a registration with a real handshake"))
    command("reload", "read all certificate, key and drop-in files again")


def _add_commands_that_watch(command: Command) -> None:
    command("status", "show daemon status; exits with 1 if there are problems")
    sub = command("recent", "show the most recent handshakes")
    sub.add_argument(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="number of handshakes to show, 1 to 100 (default: %(default)s)",
    )
    _add_filter(sub)
    sub = command("monitor", "show handshakes as they end, until interrupted")
    sub.add_argument(
        "--count", type=int, default=0, metavar="N", help="exit after this many handshakes (default: 0, no limit)"
    )
    _add_filter(sub)
    sub = command("top", "show handshake rates, latencies and failures")
    sub.add_argument("--once", action="store_true", help="print the totals since the daemon started, and exit")
    sub.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="seconds between updates, 0.1 to 60 (default: %(default)s)",
    )


def _add_commands_on_grants(command: Command) -> None:
    _add_grant_options(command("grant", "allow a user or group to register certain names"))
    sub = command("revoke", "revoke a grant; registrations made under it stay")
    sub.add_argument("id", type=int, help="number of the grant, as listed by grants")
    command("grants", "list your grants; as root, all grants")


def _add_import_options(sub: RecordingParser) -> None:
    sub.add_argument(
        "--config",
        type=Path,
        metavar="F",
        help="configuration file of tlshd (default: /etc/tlshd/config, else /etc/tlshd.conf)",
    )
    sub.add_argument(
        "--tags", type=Path, metavar="DIR", help="directory of its session tags (default: /etc/tlshd/tags.d)"
    )
    sub.add_argument("--into", type=Path, metavar="DIR", help="directory to write to (default: /etc/handshaked)")
    sub.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="root directory to read from and write to (default: %(default)s)",
    )
    sub.add_argument("--print", action="store_true", help="print the files instead of writing them")


def _add_install_options(command: Command) -> None:
    for name, words in (
        ("install-systemd", "install systemd units, users, D-Bus files, completions and manual pages"),
        ("uninstall-systemd", "remove what install-systemd installed; settings and registrations stay"),
    ):
        sub = command(name, words, daemon=False)
        sub.add_argument(
            "--root",
            type=Path,
            default=Path("/"),
            metavar="DIR",
            help="root directory to install into (default: %(default)s)",
        )
        sub.add_argument("--now", action="store_true", help="also start or stop the service")
    sub = command("completion", "print the completion script for a shell", daemon=False)
    sub.add_argument("shell", choices=SHELLS, help="shell to print the script for")
    sub = command("manual", "print a manual page as roff", daemon=False)
    sub.add_argument("page", choices=PAGES, help="manual page to print")


def _add_name(sub: RecordingParser) -> None:
    sub.add_argument("name", help="name of the registration")


def _add_explain_options(sub: RecordingParser) -> None:
    sub.add_argument("--server-name", metavar="N", help="server name in the ClientHello (default: none)")
    sub.add_argument(
        "--alpn",
        action="append",
        default=[],
        metavar="A",
        help="application protocol in the ClientHello, in the client's order; repeatable (default: none)",
    )
    sub.add_argument("--user", metavar="U", help="user whose endpoint asks: a name, a uid or 'kernel' (default: you)")


def _add_test_options(sub: RecordingParser) -> None:
    _add_name(sub)
    sub.add_argument(
        "--server-name", metavar="N", help="server name to ask for (default: the first of the registration)"
    )
    sub.add_argument(
        "--alpn", metavar="A", help="application protocol to offer (default: the first of the registration)"
    )
    sub.add_argument("--ca", metavar="F", help="PEM file of CA certificates to trust (default: the system's)")
    sub.add_argument(
        "--connect",
        metavar="HOST:PORT",
        help="server to connect to, which must use the registration (default: none, the daemon plays both sides)",
    )
    sub.add_argument(
        "--transport", choices=("quic", "tcp"), default="quic", help="transport to connect with (default: %(default)s)"
    )
    sub.add_argument(
        "--timeout",
        type=_seconds,
        default=8.0,
        metavar="S",
        help="seconds to wait for the handshake, 0.1 to 60 (default: %(default)s)",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 60:
        raise argparse.ArgumentTypeError("must be a number of seconds from 0.1 to 60")
    return seconds


def _add_filter(sub: RecordingParser) -> None:
    sub.add_argument("--failed", action="store_true", help="only failed handshakes")
    sub.add_argument("--registration", metavar="NAME", help="only handshakes of this registration")
    sub.add_argument("--role", choices=("client", "server"), help="only handshakes in which the daemon plays this role")
    sub.add_argument(
        "--server-name",
        metavar="PATTERN",
        help="only handshakes for server names that match, for example '*.example.com'",
    )


def _add_grant_options(sub: RecordingParser) -> None:
    sub.add_argument("--user", metavar="U", help="user (name or uid) to allow")
    sub.add_argument("--group", metavar="G", help="group (name or gid) whose members to allow")
    sub.add_argument(
        "--alpn",
        action="append",
        required=True,
        metavar="A",
        help="application protocol that may be registered; repeatable",
    )
    sub.add_argument(
        "--server-name",
        action="append",
        default=[],
        metavar="N",
        help="server name that may be registered; *.NAME also allows every name one label below; repeatable"
        " (default: registrations without a server name)",
    )
    sub.add_argument("--allow-kernel", action="store_true", help="may allow kernel upcalls to use the registrations")


def _add_register_options(sub: RecordingParser) -> None:
    sub.add_argument("name", help="name of the registration")
    _add_credential_option(sub, "--pkcs12", PKCS12, "PKCS#12 file with a certificate chain and its private key")
    for file in CREDENTIAL:
        _add_credential_option(sub, file.flag, file.name, file.help)
    for setting in (*SETTINGS, REPLACE, FORCE):
        options = setting.type.command_line(setting.default)
        if setting.metavar or setting.type.metavar:
            options["metavar"] = setting.metavar or setting.type.metavar
        words = f"{setting.help}; repeatable" if options.get("action") == "append" else setting.help
        sub.add_argument(setting.flag, dest=setting.name, help=words, **options)


def _add_credential_option(sub: RecordingParser, flag: str, name: str, words: str) -> None:
    words += "; once for each credential" if name in BEGINNINGS else "; after the --key or --pkcs12 it belongs to"
    sub.add_argument(flag, dest=name, action=CredentialOption, default=[], metavar="F", help=words)
