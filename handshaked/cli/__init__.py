"""``handshakectl``: register certificates with the daemon, see what it does with them and why, and look after it.

Exit codes: 0 success, 1 refused or a problem found (the reason is on standard error), 2 usage.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module

from handshaked.cli.parser import command_line
from handshaked.errors import RefusedError

__all__ = ["COMMANDS", "command_function", "main"]

COMMANDS: Mapping[str, str] = {
    "register": "registrations.register",
    "unregister": "registrations.unregister",
    "list": "registrations.list_registrations",
    "show": "registrations.show",
    "explain": "registrations.explain",
    "test": "probe.test",
    "reload": "registrations.reload",
    "status": "watching.status",
    "recent": "watching.recent",
    "monitor": "watching.monitor",
    "top": "watching.top",
    "doctor": "doctor.doctor",
    "grant": "registrations.grant",
    "revoke": "registrations.revoke",
    "grants": "registrations.grants",
    "install-systemd": "install.install",
    "uninstall-systemd": "install.uninstall",
    "completion": "completion.completion",
    "manual": "manual.manual",
    "import-tlshd": "tlshd.import_tlshd",
}
"""The module and function of each command. A command imports only its own module: all of them take twice the time."""


def command_function(command: str) -> Callable[[argparse.Namespace], int]:
    """Return the function of `command`, which returns the exit code."""
    module, _, name = COMMANDS[command].partition(".")
    function: Callable[[argparse.Namespace], int] = getattr(import_module(f"{__name__}.{module}"), name)
    return function


def main() -> None:
    """Run one command."""
    arguments = command_line().parse_args()
    try:
        sys.exit(command_function(arguments.command)(arguments))
    except RefusedError as error:
        print(f"handshakectl: {error}", file=sys.stderr)
        sys.exit(1)
    except PermissionError as error:
        print(f"handshakectl: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
