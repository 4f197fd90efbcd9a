"""The commands on registrations and grants."""

import argparse
import os
import sys
import time

from handshaked.cli.credential_options import given_credentials
from handshaked.cli.output import (
    Result,
    ask,
    console,
    group_name,
    print_fields,
    print_json,
    print_table,
    print_warnings,
    short,
    urgency,
    user_name,
)
from handshaked.control.client import ControlClient
from handshaked.errors import RefusedError
from handshaked.registry.expiry import DAY, Expiry, date, expiry
from handshaked.registry.settings import ACCESS, CREDENTIAL, FORCE, REPLACE, SETTINGS, TRUST
from handshaked.wire.attached import close_all


def register(arguments: argparse.Namespace) -> int:
    """Run ``register``: open the files as the calling user, and pass them to the daemon."""
    message, paths = register_request(arguments)
    descriptors = _open_all(paths)
    try:
        result = ask(arguments, "register", message, descriptors)
    finally:
        close_all(descriptors)
    for warning in result["warnings"]:
        print(f"handshakectl: warning: {warning}", file=sys.stderr)
    if arguments.json:
        print_json(result)
    return 0


def register_request(arguments: argparse.Namespace) -> tuple[Result, list[str]]:
    """Return the arguments of the control command ``register``, and the paths of the files that go with it."""
    credentials, paths = _credentials(arguments)
    settings = {one.name: one.type.given(getattr(arguments, one.name)) for one in (*SETTINGS, REPLACE, FORCE)}
    trust = {file.name: os.path.abspath(path) for file in TRUST if (path := settings[file.name])}
    message = {"name": arguments.name, "credentials": credentials, **settings, **trust}
    return message, [*paths, *trust.values()]


def unregister(arguments: argparse.Namespace) -> int:
    """Run ``unregister``."""
    ask(arguments, "unregister", {"name": arguments.name})
    return 0


def list_registrations(arguments: argparse.Namespace) -> int:
    """Run ``list``."""
    registrations: list[Result] = []
    with ControlClient(arguments.socket) as client:
        more = True
        while more:
            after = registrations[-1]["name"] if registrations else None
            page = client.ask("list", {"after": after})
            registrations += page["registrations"]
            more = page["more"]
    if arguments.json:
        print_json({"registrations": registrations})
        return 0
    print_table(
        ("NAME", "SERVER NAMES", "ALPN", "KEYS", "DAYS LEFT", "USERS"),
        map(_row, registrations),
        [urgency(_expiry(one)) for one in registrations],
    )
    for one in registrations:
        print_warnings(f"{one['name']}: {warning}" for warning in one["warnings"])
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Run ``show``."""
    result = ask(arguments, "show", {"name": arguments.name})
    if arguments.json:
        print_json(result)
        return 0
    registration = result["registration"]
    print_fields(shown_fields(registration))
    for credential in registration["credentials"]:
        print_fields(
            {
                "credential": f"{credential['key_type']} {credential['subject']}",
                "  SHA-256": credential["sha256"],
                "  valid": f"{date(credential['not_before'])} to {date(credential['not_after'])}",
                **{f"  {file.label}": file.words(credential[file.name]) for file in CREDENTIAL},
            }
        )
    print_warnings(f"warning: {warning}" for warning in registration["warnings"])
    return 0


def shown_fields(registration: Result) -> dict[str, str]:
    """Return the labels and texts in which ``show`` prints `registration`, as the daemon returned it."""
    shown = {**registration, **registration["policy"]}
    return {
        "name": shown["name"],
        "owner": user_name(shown["owner"]),
        "may use it": _users(registration),
        **{one.label: one.words(shown[one.name]) for one in SETTINGS if one not in ACCESS},
        **({"from": shown["origin"]} if shown["origin"] else {}),
    }


def explain(arguments: argparse.Namespace) -> int:
    """Run ``explain``; return 1 if such a client is refused."""
    result = ask(
        arguments,
        "explain",
        {"server_name": arguments.server_name, "alpns": arguments.alpn, "user": arguments.user},
    )
    if arguments.json:
        print_json(result)
    else:
        if "alert" in result:
            console.print(f"refused: {result['alert']}: {result['reason']}", style="red", markup=False)
        else:
            key = (
                f"{result['key_type']} key"
                if "key_type" in result
                else f"{result['deliver']} (certificate of that server)"
            )
            served = f"served by: {result['registration']} with ALPN {result['alpn']}, {key}"
            console.print(served, style="green", markup=False)
        for candidate in result["candidates"]:
            name = candidate["matched_name"] or "(any name)"
            style = "bold" if candidate["chosen"] else "dim"
            console.print(f"  {candidate['registration']} [{name}]: {candidate['reason']}", style=style, markup=False)
    return 1 if "alert" in result else 0


def _credentials(arguments: argparse.Namespace) -> tuple[list[Result], list[str]]:
    """Return the credentials as the daemon expects them, and the paths of their files in the same order."""
    given = given_credentials(arguments)
    if not given and arguments.deliver[0] != "forward":
        arguments.parser.error("a credential is required: --cert and --key, or --pkcs12")
    credentials: list[Result] = []
    paths: list[str] = []
    for one in given:
        files = {file.name: os.path.abspath(path) for file in CREDENTIAL if (path := one.get(file.name))}
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
    return (
        registration["name"],
        short(registration["server_names"]) or "(any)",
        short(registration["alpns"]),
        " ".join(credential["key_type"] for credential in registration["credentials"]),
        _days_left(registration) if registration["credentials"] else "-",
        _users(registration),
    )


def _days_left(registration: Result) -> str:
    """Return the days until the first certificate expires, with a decimal if it is less than two."""
    days = (min(credential["not_after"] for credential in registration["credentials"]) - time.time()) / DAY
    return f"{days:.1f}" if abs(days) < 2 else str(int(days))


def _expiry(registration: Result) -> Expiry:
    now = time.time()
    stages = (expiry(one["not_before"], one["not_after"], now) for one in registration["credentials"])
    return max(stages, default=Expiry.FAR)


def _users(registration: Result) -> str:
    users = [user_name(uid) for uid in (registration["owner"], *registration["allow_users"])]
    users += [f"group {group_name(gid)}" for gid in registration["allow_groups"]]
    return ", ".join([*users, *(["kernel"] if registration["allow_kernel"] else [])])


def grant(arguments: argparse.Namespace) -> int:
    """Run ``grant``."""
    wanted = {
        "user": arguments.user,
        "group": arguments.group,
        "alpns": arguments.alpn,
        "server_names": arguments.server_name,
        "allow_kernel": arguments.allow_kernel,
    }
    result = ask(arguments, "grant", wanted)
    if arguments.json:
        print_json(result)
    else:
        print(f"grant {result['id']}")
    return 0


def revoke(arguments: argparse.Namespace) -> int:
    """Run ``revoke``."""
    ask(arguments, "revoke", {"id": arguments.id})
    return 0


def grants(arguments: argparse.Namespace) -> int:
    """Run ``grants``."""
    result = ask(arguments, "grants", {})
    if arguments.json:
        print_json(result)
        return 0
    rows = [
        (
            str(one["id"]),
            f"user {user_name(one['uid'])}" if one["uid"] is not None else f"group {group_name(one['gid'])}",
            short(one["server_names"]) or "(no name)",
            short(one["alpns"]),
            "yes" if one["allow_kernel"] else "no",
        )
        for one in result["grants"]
    ]
    print_table(("ID", "FOR", "SERVER NAMES", "ALPN", "KERNEL"), rows)
    return 0


def reload(arguments: argparse.Namespace) -> int:
    """Run ``reload``; return 1 if a file could not be used."""
    result = ask(arguments, "reload", {})
    if arguments.json:
        print_json(result)
    else:
        print(f"renewed: {', '.join(result['renewed']) or 'nothing'}")
    for error in result["errors"]:
        print(f"handshakectl: {error}", file=sys.stderr)
    return 1 if result["errors"] else 0
