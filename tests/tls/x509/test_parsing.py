"""Warnings of `cryptography` reach no log, in any thread."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from handshaked.errors import UnreadableError
from handshaked.tls.x509.parsing import readable, well_formed
from tests.patience import run_program
from tests.tls.x509.chains import openssl

READ_IN_THREADS = """
import pathlib, sys, threading
from handshaked.tls.x509.readers import read_trust_store

def read():
    for _ in range(50):
        assert len(read_trust_store(content, "file")) == 1

content = pathlib.Path(sys.argv[1]).read_bytes()
threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(60)
"""


def test_reading_roots_with_serial_number_zero_in_threads_warns_of_nothing(tmp_path: Path) -> None:
    openssl(tmp_path, "req -x509 -newkey ed25519 -nodes -subj /CN=a -keyout k.pem -out c.pem -set_serial 0")
    for filters in ("default", "error"):
        done = run_program(sys.executable, "-W", filters, "-c", READ_IN_THREADS, tmp_path / "c.pem", check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_reading_does_not_change_the_filters_that_all_threads_share() -> None:
    before = list(warnings.filters)
    for guarded in (readable("file"), well_formed()):
        with guarded:
            assert warnings.filters == before
    try:
        with readable("file"):
            raise ValueError
    except UnreadableError:
        assert warnings.filters == before
