"""The uids of a range in /etc/subuid count as their owner."""

import os
from pathlib import Path

import pytest

from handshaked.callers import owners as owners_module
from handshaked.callers.owners import Owners

SUBORDINATE = """\
alice:100000:65536
# a comment
bob:165536:65536
1003:300000:10
alice:400000:1
unknown:500000:65536
unknown:600000:65536
root:1000000:131072
broken:x:1
short
"""


@pytest.fixture
def owners(tmp_path: Path) -> Owners:
    (tmp_path / "subuid").write_text(SUBORDINATE)
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nalice:x:1001:1001::/:\nbob:x:1002:1002::/:\nodd\n")
    return Owners(tmp_path / "subuid", tmp_path / "passwd")


@pytest.mark.parametrize(
    ("uid", "owner"),
    [
        (0, 0), (1001, 1001), (99_999, 99_999), (100_000, 1001), (165_535, 1001), (165_536, 1002), (231_071, 1002),
        (231_072, 231_072), (300_009, 1003), (300_010, 300_010), (400_000, 1001), (500_001, 500_000),
        (600_001, 500_000),
    ],
)  # fmt: skip
def test_uid_of_a_range_counts_as_its_owner(owners: Owners, uid: int, owner: int) -> None:
    assert owners.owner_of(uid) == owner


@pytest.mark.parametrize(
    ("ranges", "uid", "owner"),
    [
        ("alice:100000:65536\nbob:110000:1000", 110_500, 1001),
        ("alice:100000:65536\nbob:110000:1000", 111_500, 1001),
        ("bob:100000:1000\nalice:100000:65536", 100_500, 1001),
        ("alice:100000:65536\nbob:150000:65536", 160_000, 1001),
        ("alice:100000:65536\nbob:150000:65536", 170_000, 1002),
        ("root:100000:1000000\nalice:300000:65536", 300_001, 1001),
        ("alice:100000:65536\n100005:300000:65536", 300_001, 1001),
        ("100005:300000:65536\n300005:100000:65536", 300_001, 300_005),
        ("alice:100000:-5\nalice:200000:0", 100_000, 100_000),
    ],
)
def test_nested_and_overlapping_ranges_count_as_one_owner(
    owners: Owners, tmp_path: Path, ranges: str, uid: int, owner: int
) -> None:
    (tmp_path / "subuid").write_text(ranges)
    assert owners.owner_of(uid) == owner


def test_uids_of_a_container_count_together_but_not_as_root(owners: Owners) -> None:
    """The ranges of root are for containers, 65,536 uids each."""
    assert [owners.owner_of(1_000_000 + n) for n in (0, 1000, 65_535, 65_536, 70_000)] == [
        1_000_000, 1_000_000, 1_000_000, 1_065_536, 1_065_536,
    ]  # fmt: skip


def test_changed_file_is_read_again(owners: Owners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert owners.owner_of(700_000) == 700_000
    now = 0.0
    monkeypatch.setattr(owners_module.time, "monotonic", lambda: now)
    (tmp_path / "subuid").write_text(SUBORDINATE + "bob:700000:10\n")
    now += 1e9
    assert owners.owner_of(700_000) == 1002
    (tmp_path / "subuid").unlink()
    now += 1e9
    assert owners.owner_of(700_000) == 700_000


def test_unreadable_file_leaves_the_known_ranges(
    owners: Owners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert owners.owner_of(100_000) == 1001
    monkeypatch.setattr(owners_module.time, "monotonic", lambda: 1e12)
    (tmp_path / "subuid").write_text("")
    os.replace(tmp_path / "passwd", tmp_path / "gone")
    (tmp_path / "passwd").mkdir()
    assert owners.owner_of(100_000) == 1001
