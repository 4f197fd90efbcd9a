"""Print results: in colour on a terminal, as plain columns in a pipe, or as JSON for programs."""

import argparse
import grp
import json
import pwd
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from handshaked.control.client import ControlClient
from handshaked.registry.expiry import Expiry

Result = dict[str, Any]

console = Console(highlight=False, soft_wrap=True)
"""Standard output; without a terminal, or with NO_COLOR, it has no colours."""


def ask(arguments: argparse.Namespace, command: str, message: Result, descriptors: tuple[int, ...] = ()) -> Result:
    """Return the daemon's answer to `command`. RefusedError: it was refused, or the daemon cannot be reached."""
    with ControlClient(arguments.socket) as client:
        return client.ask(command, message, descriptors)


def print_json(result: Result) -> None:
    """Print `result` as JSON."""
    print(json.dumps(result, indent=2))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], styles: Iterable[str] = ()) -> None:
    """Print a table with one style per row; in a pipe, plain columns without lines or colours."""
    rows = [tuple(row) for row in rows]
    if not console.is_terminal:
        lines = [tuple(header), *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        for line in lines:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, justify="right" if name == "DAYS LEFT" else "left")
    styles = list(styles) or [""] * len(rows)
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*(Text(cell) for cell in row), style=style)
    console.print(table)


def print_fields(fields: Result, styles: Result | None = None) -> None:
    """Print one name and value per line."""
    for name, value in fields.items():
        text = Text(f"{name + ':':15} ")
        text.append(str(value), style=(styles or {}).get(name, ""))
        console.print(text)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print one warning per line."""
    for words in warnings:
        console.print(Text(words, style="yellow"))


def user_name(uid: int) -> str:
    """Return the name of the user `uid`, or its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return the name of the group `gid`, or its number if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def urgency(stage: Expiry) -> str:
    """Return the style for something that expires at that stage."""
    return "bold red" if stage >= Expiry.URGENT else "yellow" if stage is Expiry.SOON else ""


def short(items: list[str]) -> str:
    """Return the first three of `items`, and the number of the others."""
    return " ".join(items[:3]) + (f" +{len(items) - 3}" if len(items) > 3 else "")
