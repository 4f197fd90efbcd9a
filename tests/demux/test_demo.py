"""What a newcomer sees first is true: every row is asked for, and one that is wrong is said to be."""

import subprocess
import sys

from handshaked.testing.demo import ASKS
from tests.patience import run_program


def _run(program: str) -> "subprocess.CompletedProcess[str]":
    return run_program(sys.executable, "-c", program, check=False)


def test_the_demonstration_shows_every_row_and_all_are_right() -> None:
    run = _run("from handshaked.testing.demo import main; main()")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "WRONG" not in run.stdout
    assert len([line for line in run.stdout.splitlines() if line.startswith("aioquic ")]) == len(ASKS)


def test_a_row_that_is_wrong_is_said_to_be() -> None:
    # A row that another application answers, and a name that is served where a refusal is expected.
    run = _run(
        "from handshaked.testing import demo\n"
        "from handshaked.errors import Alert\n"
        "demo.ASKS = (demo.Ask('smbd.example.com', ('smb',), demo.ROWS[0]),\n"
        "             demo.Ask('nginx.example.com', ('h3',), Alert.UNRECOGNIZED_NAME))\n"
        "demo.main()"
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert run.stdout.count("  WRONG\n") == 2
    assert "Some rows are WRONG." in run.stdout
