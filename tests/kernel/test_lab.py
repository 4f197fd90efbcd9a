"""The daemon under real consumers in a real kernel; each program of ``inside/`` is one boot."""

import os

import pytest

from tests.kernel.lab import boot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the laboratory is made of mounts, for which one has to be root"),
]


@pytest.mark.parametrize(
    "program",
    [
        "nfs_tls.py",
        "nfs_mtls.py",
        "nfs_refused.py",
        "nfs_names.py",
        "nfs_many.py",
        "nfs_restart.py",
        "tlshd.py",
        "keys.py",
    ],
)
def test_in_the_kernel(program: str) -> None:
    result = boot(program)
    assert result.status == 0, result.output
