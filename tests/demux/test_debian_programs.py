"""Programs in the Debian root end with their blocks."""

import os
import select
from pathlib import Path

import pytest

from tests.demux import debian_programs
from tests.handshake_channel import eventually
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.needs("root", "debootstrap", "mount namespaces")]
NOBODY = 65534


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_process_of_another_user_ends_with_the_block() -> None:
    """Changing the user clears the parent-death signal, with which nginx and Caddy outlived the tests."""
    with debian_programs.prepared() as debian:
        with debian.process("sleep", "600", user=NOBODY, home=debian.inside) as process:
            assert eventually(lambda: bool(_children(process.pid)))
            (child,) = _children(process.pid)
            assert eventually(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
            handle = os.pidfd_open(child)
        try:
            assert select.select([handle], [], [], PATIENCE)[0] == [handle]
        finally:
            os.close(handle)
