"""An argument parser that records its arguments: manual pages, completions and the reference are generated from it."""

import argparse
from typing import Any


class RecordingParser(argparse.ArgumentParser):
    """Records its arguments in ``arguments``, in order; ``commands`` holds the parsers of subcommands by name."""

    def __init__(self, *positional: Any, **options: Any) -> None:
        self.arguments: list[argparse.Action] = []
        self.commands: dict[str, RecordingParser] = {}
        super().__init__(*positional, **options)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add and record an argument; see argparse."""
        action = super().add_argument(*names, **options)
        self.arguments.append(action)
        return action


def takes_value(action: argparse.Action) -> bool:
    """Return whether the option of `action` takes a value."""
    return action.nargs != 0


def is_path(action: argparse.Action) -> bool:
    """Return whether the value of `action` is a path."""
    return action.metavar in ("F", "FILE", "DIR") or action.dest == "socket"


def help_text(action: argparse.Action) -> str:
    """Return the help text of `action`, as ``--help`` shows it."""
    return (action.help or "") % vars(action)
