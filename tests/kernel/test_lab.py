"""The daemon with in-kernel consumers in User-Mode Linux; each program of ``inside/`` is one boot."""

import pytest

from tests.kernel.lab import boot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("root", "debootstrap", "mount namespaces"),
]
MEMORY = {"nfs_many": "9G"}  # The kernel queues 3 to 50 requests, depending on its memory, which is allocated on use.


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
        "migrated",
        "peer_keys",
        "netns",
        "netns_own",
    ],
)
def test_program_succeeds_in_the_lab(program: str) -> None:
    result = boot(program, memory=MEMORY.get(program, "1G"))
    assert result.status == 0, result.output
