"""Run Python programs as an ordinary user with ambient capabilities, as systemd starts services."""

import os
import sys
from pathlib import Path

from tests.patience import run_program
from tests.plugins.needs import public_python

_CAPABILITIES = "+net_admin,+dac_read_search"


def run_with_capabilities(program: str) -> str:
    """Return what `program` prints with CAP_NET_ADMIN and CAP_DAC_READ_SEARCH. Needs root, setpriv, public python."""
    words = ("--reuid=54321", "--regid=54321", "--clear-groups")
    capabilities = (f"--inh-caps={_CAPABILITIES}", f"--ambient-caps={_CAPABILITIES}")
    path = os.pathsep.join([str(Path(__file__).parents[1]), *(path for path in sys.path if path)])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path}
    return run_program("setpriv", *words, *capabilities, public_python(), "-c", program, env=environment).stdout
