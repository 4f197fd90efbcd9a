"""A command line that knows what it takes: manual pages, completions and the reference are made from it."""

import argparse
from typing import Any


class RecordingParser(argparse.ArgumentParser):
    """``arguments`` are what was added, in order; ``commands`` the parsers of subcommands, by name."""

    def __init__(self, *positional: Any, **options: Any) -> None:
        self.arguments: list[argparse.Action] = []
        self.commands: dict[str, RecordingParser] = {}
        super().__init__(*positional, **options)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """As argparse's own."""
        action = super().add_argument(*names, **options)
        self.arguments.append(action)
        return action


def takes_value(action: argparse.Action) -> bool:
    """Whether a value follows the option of `action`."""
    return action.nargs != 0


def is_path(action: argparse.Action) -> bool:
    """Whether the value of `action` is a file."""
    return action.metavar in ("F", "FILE", "DIR") or action.dest == "socket"


def help_text(action: argparse.Action) -> str:
    """What ``--help`` says of `action`."""
    return (action.help or "") % vars(action)
