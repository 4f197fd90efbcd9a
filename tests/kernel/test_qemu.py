"""The daemon with consumers that only Debian's stock kernel has; each program of ``inside/`` is one boot."""

import pytest

from tests.kernel.qemu import boot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("root", "debootstrap", "mount namespaces"),
    pytest.mark.qemu,
]


@pytest.mark.parametrize(
    ("suite", "program"),
    [("trixie", "nvme_psk"), ("trixie", "peer_keys"), ("trixie-backports", "nvme_psk"), ("trixie-backports", "keys")],
)
def test_program_succeeds_under_qemu(suite: str, program: str) -> None:
    result = boot(program, suite=suite)
    assert result.status == 0, result.output
