"""``handshakectl``: registers certificates with the daemon, and shows what it would do with them and why.

Exit codes: 0 done, 1 refused (the reason is on standard error), 2 usage.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handshaked import __version__, directories
from handshaked.control.channel import close_all
from handshaked.control.client import ControlClient
from handshaked.errors import RefusedError

Result = dict[str, Any]
_DAY = 86400


def main() -> None:
    """Run one command."""
    arguments = _parser().parse_args()
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        sys.exit(run(arguments))
    except RefusedError as error:
        print(f"handshakectl: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def register(arguments: argparse.Namespace) -> int:
    """``register``: opens the files as the user who calls, and hands them over."""
    credentials, paths = _credentials(arguments)
    descriptors = _open_all(paths)
    try:
        result = _ask(
            arguments,
            "register",
            {
                "name": arguments.name,
                "alpns": arguments.alpn,
                "server_names": arguments.server_name,
                "allow_users": arguments.allow_user,
                "allow_groups": arguments.allow_group,
                "allow_kernel": arguments.allow_kernel,
                "deliver": " ".join(arguments.deliver),
                "proxy_protocol": arguments.proxy_protocol,
                "credentials": credentials,
                "force": arguments.force,
                "replace": arguments.replace,
            },
            descriptors,
        )
    finally:
        close_all(descriptors)
    for warning in result["warnings"]:
        print(f"handshakectl: warning: {warning}", file=sys.stderr)
    if arguments.json:
        _print_json(result)
    return 0


def unregister(arguments: argparse.Namespace) -> int:
    """``unregister``."""
    _ask(arguments, "unregister", {"name": arguments.name})
    return 0


def list_registrations(arguments: argparse.Namespace) -> int:
    """``list``."""
    registrations: list[Result] = []
    with ControlClient(arguments.socket) as client:
        more = True
        while more:
            after = registrations[-1]["name"] if registrations else None
            page = client.ask("list", {"after": after})
            registrations += page["registrations"]
            more = page["more"]
    if arguments.json:
        _print_json({"registrations": registrations})
        return 0
    rows: list[tuple[str, ...]] = [("NAME", "SERVER NAMES", "ALPN", "KEYS", "DAYS LEFT", "USERS")]
    rows += [_row(registration) for registration in registrations]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def show(arguments: argparse.Namespace) -> int:
    """``show``."""
    result = _ask(arguments, "show", {"name": arguments.name})
    if arguments.json:
        _print_json(result)
        return 0
    registration = result["registration"]
    _print_fields(
        {
            "name": registration["name"],
            "owner": registration["owner"],
            "server names": ", ".join(registration["server_names"]) or "(any)",
            "ALPN": ", ".join(registration["alpns"]),
            "may use it": _users(registration),
            "delivered by": registration["deliver"] + " with PROXY protocol" * registration["proxy_protocol"],
        }
    )
    for credential in registration["credentials"]:
        _print_fields(
            {
                "credential": f"{credential['key_type']} {credential['subject']}",
                "  SHA-256": credential["sha256"],
                "  valid": f"{_date(credential['not_before'])} to {_date(credential['not_after'])}",
                "  certificate": credential["certificate"],
                "  key": credential["key"] or "(in the same file)",
            }
        )
    return 0


def explain(arguments: argparse.Namespace) -> int:
    """``explain``: exit code 1 if such a client is refused."""
    result = _ask(
        arguments,
        "explain",
        {"server_name": arguments.server_name, "alpns": arguments.alpn, "user": arguments.user},
    )
    if arguments.json:
        _print_json(result)
    else:
        if "alert" in result:
            print(f"refused: {result['alert']}: {result['reason']}")
        else:
            print(f"served by: {result['registration']} with ALPN {result['alpn']}, {result['key_type']} key")
        for candidate in result["candidates"]:
            name = candidate["matched_name"] or "(any name)"
            print(f"  {candidate['registration']} [{name}]: {candidate['reason']}")
    return 1 if "alert" in result else 0


def status(arguments: argparse.Namespace) -> int:
    """``status``."""
    result = _ask(arguments, "status", {})
    if arguments.json:
        _print_json(result)
        return 0
    workers = result["workers"]
    _print_fields(
        {
            "handshaked": f"{result['version']}, pid {result['pid']}, up {result['uptime']:.0f} s",
            "registrations": result["registrations"],
            "workers": f"{sum(worker['answers'] for worker in workers)} of {len(workers)} answer,"
            f" {result['worker_restarts']} restarts",
            "handshakes": f"{sum(worker.get('succeeded', 0) for worker in workers)} ok,"
            f" {sum(worker.get('failed', 0) for worker in workers)} failed,"
            f" {sum(worker.get('in_flight', 0) for worker in workers)} in flight",
        }
    )
    return 0


def reload(arguments: argparse.Namespace) -> int:
    """``reload``: exit code 1 if a file could not be used."""
    result = _ask(arguments, "reload", {})
    if arguments.json:
        _print_json(result)
    else:
        print(f"renewed: {', '.join(result['renewed']) or 'nothing'}")
    for error in result["errors"]:
        print(f"handshakectl: {error}", file=sys.stderr)
    return 1 if result["errors"] else 0


def _ask(arguments: argparse.Namespace, command: str, message: Result, descriptors: tuple[int, ...] = ()) -> Result:
    with ControlClient(arguments.socket) as client:
        return client.ask(command, message, descriptors)


def _credentials(arguments: argparse.Namespace) -> tuple[list[Result], list[str]]:
    """The credentials as the daemon wants them, and the paths of their files in the same order."""
    certificates, keys, passphrases = arguments.cert, arguments.key, arguments.passphrase_file
    if len(certificates) != len(keys) or (passphrases and len(passphrases) != len(certificates + arguments.pkcs12)):
        arguments.parser.error("give as many --key as --cert, and --passphrase-file for all credentials or for none")
    if not certificates and not arguments.pkcs12 and arguments.deliver[0] != "forward":
        arguments.parser.error("give a credential: --cert and --key, or --pkcs12")
    pairs = [*zip(certificates, keys, strict=True), *((path, None) for path in arguments.pkcs12)]
    credentials: list[Result] = []
    paths: list[str] = []
    for index, (certificate, key) in enumerate(pairs):
        files = {"certificate": certificate, "key": key, "passphrase": passphrases[index] if passphrases else None}
        files = {name: os.path.abspath(path) for name, path in files.items() if path}
        credentials.append(files)
        paths += files.values()
    return credentials, paths


def _open_all(paths: list[str]) -> tuple[int, ...]:
    descriptors: list[int] = []
    for path in paths:
        try:
            descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            close_all(tuple(descriptors))
            raise RefusedError(f"{path}: {error.strerror}") from None
    return tuple(descriptors)


def _row(registration: Result) -> tuple[str, ...]:
    days = [(credential["not_after"] - time.time()) / _DAY for credential in registration["credentials"]]
    return (
        registration["name"],
        _short(registration["server_names"]) or "(any)",
        _short(registration["alpns"]),
        " ".join(credential["key_type"] for credential in registration["credentials"]),
        str(int(min(days))) if days else "-",
        _users(registration),
    )


def _short(items: list[str]) -> str:
    return " ".join(items[:3]) + (f" +{len(items) - 3}" if len(items) > 3 else "")


def _users(registration: Result) -> str:
    users = [str(registration["owner"]), *map(str, registration["allow_users"])]
    users += [f"group {gid}" for gid in registration["allow_groups"]]
    return ", ".join([*users, *(["kernel"] if registration["allow_kernel"] else [])])


def _date(timestamp: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(timestamp))


def _print_fields(fields: dict[str, object]) -> None:
    for name, value in fields.items():
        print(f"{name + ':':15} {value}")


def _print_json(result: Result) -> None:
    print(json.dumps(result, indent=2))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--socket",
        type=Path,
        default=directories.runtime_directory() / directories.CONTROL_SOCKET,
        help="the daemon's control socket",
    )
    printing = argparse.ArgumentParser(add_help=False)
    printing.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(prog="handshakectl", description="Control handshaked.")
    parser.add_argument("--version", action="version", version=f"handshakectl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words, parents=[common, printing])
        sub.set_defaults(run=run, parser=sub)
        return sub

    _add_register_options(command("register", register, "register certificates for server names and ALPNs"))
    command("unregister", unregister, "remove a registration").add_argument("name")
    command("list", list_registrations, "list the registrations you may see")
    command("show", show, "show one registration").add_argument("name")
    sub = command("explain", explain, "tell what a ClientHello would get, and why")
    sub.add_argument("--server-name", metavar="N", help="the SNI; without it, a client that sends none")
    sub.add_argument("--alpn", action="append", default=[], required=True, metavar="A", help="in the client's order")
    sub.add_argument("--user", metavar="U", help="on behalf of this user (or uid, or 'kernel')")
    command("status", status, "show how the daemon does")
    command("reload", reload, "read all certificate and key files again")
    return parser


def _add_register_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", help="what to call the registration")
    sub.add_argument("--cert", action="append", default=[], metavar="F", help="PEM chain, leaf first; may be repeated")
    sub.add_argument("--key", action="append", default=[], metavar="F", help="PEM private key of that --cert")
    sub.add_argument("--pkcs12", action="append", default=[], metavar="F", help="key and chain in one PKCS#12 file")
    sub.add_argument("--passphrase-file", action="append", default=[], metavar="F", help="holds the key's passphrase")
    sub.add_argument("--alpn", action="append", required=True, metavar="A", help="protocol; \\xNN for other bytes")
    sub.add_argument("--server-name", action="append", default=[], metavar="N", help="name or *.name; none: any name")
    sub.add_argument("--allow-user", action="append", default=[], metavar="U", help="who else may use it")
    sub.add_argument("--allow-group", action="append", default=[], metavar="G", help="whose members may use it")
    sub.add_argument("--allow-kernel", action="store_true", help="upcalls of the kernel may use it")
    sub.add_argument(
        "--deliver",
        nargs="+",
        default=["accept"],
        metavar="HOW",
        help="how handshaked-demux delivers connections: accept, relay, or forward HOST:PORT",
    )
    sub.add_argument("--proxy-protocol", action="store_true", help="forward with a PROXY protocol v2 header")
    sub.add_argument("--replace", action="store_true", help="replace the registration of that name")
    sub.add_argument("--force", action="store_true", help="accept expired or not yet valid certificates, for testing")


if __name__ == "__main__":
    main()
