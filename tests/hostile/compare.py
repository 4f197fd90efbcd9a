"""Print what attacks cost an honest caller, exactly: ``python -m tests.hostile.compare [NAME ..]``.

It runs the tests of comparisons whose names contain a NAME (see ``pytest -k``) with twice as many rounds as a test run
has, and fails those that exceed the ratio, however short the times: for machines that have nothing else to do. The
figures in docs/explanation/security-model.md are from here.
"""

import os
import subprocess
import sys
from pathlib import Path

ROUNDS = 10
SECONDS = 3600.0


def main() -> int:
    """Run the tests named on the command line, all without a name; return pytest's exit status."""
    names = " or ".join(sys.argv[1:])
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-s", "-m", "alone", "-k", names, "--tb=no"),
        os.fspath(Path(__file__).parent),
    ]
    environment = {**os.environ, "HANDSHAKED_HOSTILE_EXACT": "1", "HANDSHAKED_HOSTILE_ROUNDS": str(ROUNDS)}
    return subprocess.run(command, env=environment, check=False, timeout=SECONDS).returncode


if __name__ == "__main__":
    sys.exit(main())
