"""``handshakectl``: registers certificates with the daemon, shows what it does with them and why, and looks after it.

Exit codes: 0 done, 1 refused or found wanting (the reason is on standard error), 2 usage.
"""

import os
import sys

from handshaked.cli.parser import command_line
from handshaked.errors import RefusedError

__all__ = ["main"]


def main() -> None:
    """Run one command."""
    arguments = command_line().parse_args()
    try:
        sys.exit(arguments.run(arguments))
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
