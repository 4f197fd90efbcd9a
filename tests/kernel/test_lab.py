"""The daemon under real consumers in a real kernel; each program of ``inside/`` is one boot."""

import pytest

from tests.kernel.lab import boot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("root", "debootstrap", "mount namespaces"),
]
MEMORY = {"nfs_many": "9G"}  # The kernel lets 3 to 50 requests wait, by its memory; it is taken as it is used.


@pytest.mark.parametrize(
    "program",
    [
        "nfs_tls",
        "nfs_mtls",
        "nfs_refused",
        "nfs_names",
        "nfs_many",
        "nfs_restart",
        "tlshd",
        "netns",
        "netns_own",
    ],
)
def test_in_the_kernel(program: str) -> None:
    result = boot(program, memory=MEMORY.get(program, "1G"))
    assert result.status == 0, result.output
