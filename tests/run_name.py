"""The name of this test run, by which tests/plugins/leftovers.py finds what the run left behind."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "HANDSHAKED_TEST_RUN"
RUN = os.environ.setdefault(VARIABLE, os.urandom(3).hex())
"""The name of this run, inherited by the workers of xdist."""
PREFIX = f"handshaked-{RUN}-"


@contextmanager
def public_temporary_directory() -> Iterator[Path]:
    """Yield a directory that every user can enter, unlike pytest's own, with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)
