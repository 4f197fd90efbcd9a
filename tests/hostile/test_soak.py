"""A short soak; ``python -m tests.hostile.soak`` is the long one, with its bound on memory."""

from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.hostile.soak import RSS_GROWTH, Plan, Soak


@pytest.mark.slow
def test_nothing_is_kept_or_lost_under_load_while_processes_are_killed(daemon: RunningDaemon, tmp_path: Path) -> None:
    report = Soak(daemon, Authority(tmp_path), Plan.of(6000)).run()
    print(report)
    assert report.ends["completed"] > 3000
    assert max(report.growth.values()) <= RSS_GROWTH, report
