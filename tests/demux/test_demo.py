"""The demonstration, a newcomer's first command: it shows every result, and detects wrong ones."""

import subprocess
import sys

from handshaked.testing.demo import ASKS
from tests.patience import run_program


def _run(program: str) -> "subprocess.CompletedProcess[str]":
    return run_program(sys.executable, "-c", program, check=False)


def test_demonstration_shows_every_result_as_expected() -> None:
    run = _run("from handshaked.testing.demo import main; main()")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "WRONG" not in run.stdout
    assert len([line for line in run.stdout.splitlines() if line.startswith("aioquic ")]) == len(ASKS)


def test_demonstration_detects_wrong_results() -> None:
    # A client served by another registration than expected, and one served where a refusal is expected.
    run = _run(
        "from handshaked.testing import demo\n"
        "from handshaked.errors import Alert\n"
        "demo.ASKS = (demo.Ask('smbd.example.com', ('smb',), demo.ROWS[0]),\n"
        "             demo.Ask('nginx.example.com', ('h3',), Alert.UNRECOGNIZED_NAME))\n"
        "demo.main()"
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert run.stdout.count("  WRONG\n") == 2
    assert "Some results are WRONG." in run.stdout
