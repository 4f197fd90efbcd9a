"""Print results: in colour on a terminal, as plain columns in a pipe, or as JSON for programs."""

import argparse
import grp
import json
import pwd
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from handshaked.control.client import ControlClient

Result = dict[str, Any]

DAY = 86400
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


def date(timestamp: float) -> str:
    """Return the UTC day of a Unix time in seconds, as YYYY-MM-DD."""
    return time.strftime("%Y-%m-%d", time.gmtime(timestamp))


def days_left(timestamp: float) -> float:
    """Return the days until the Unix time `timestamp`; negative if it has passed."""
    return (timestamp - time.time()) / DAY


def expires(timestamp: float) -> str:
    """Say when a certificate with the notAfter time `timestamp` expires."""
    days = days_left(timestamp)
    if days <= 0:
        return f"expired on {date(timestamp)}"
    return f"expires in {duration(days * DAY) if days < 2 else f'{int(days)} days'}"


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


def urgency(days: float) -> str:
    """Return the style for something that expires in `days` days."""
    return "bold red" if days < 3 else "yellow" if days < 14 else ""


def short(items: list[str]) -> str:
    """Return the first three of `items`, and the number of the others."""
    return " ".join(items[:3]) + (f" +{len(items) - 3}" if len(items) > 3 else "")


def duration(seconds: float) -> str:
    """Return `seconds` in the two largest units."""
    for size, name, smaller, least in ((DAY, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} {int(seconds % size // smaller)} {least}"
    return f"{seconds:.0f} s"
