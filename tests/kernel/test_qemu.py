"""The daemon under consumers that only Debian's ordinary kernel has; each program of ``inside/`` is one boot."""

import os

import pytest

from tests.kernel.qemu import boot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the laboratory is made of mounts, for which one has to be root"),
    pytest.mark.skipif(
        os.environ.get("HANDSHAKED_QEMU") != "1", reason="emulates a whole machine; set HANDSHAKED_QEMU=1 to run it"
    ),
]


@pytest.mark.parametrize(
    ("suite", "program"),
    [("trixie", "nvme_psk"), ("trixie-backports", "nvme_psk"), ("trixie-backports", "keys")],
)
def test_in_the_ordinary_kernel(suite: str, program: str) -> None:
    result = boot(program, suite=suite)
    assert result.status == 0, result.output
