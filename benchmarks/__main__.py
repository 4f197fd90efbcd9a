"""Run benchmarks: ``python -m benchmarks NAME``. Exits with 1 if the benchmark leaves processes or files behind."""

import importlib
import signal
import sys

from tests.plugins.leftovers import leftovers
from tests.run_name import RUN


def main() -> None:
    """Run the benchmark named on the command line, then look for what it left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that context managers clean up
    try:
        importlib.import_module(f"benchmarks.{sys.argv[1]}").main()
    finally:
        left = leftovers(RUN)
        for line in left:
            print(f"left behind: {line}", file=sys.stderr)
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
