"""The harness that compares an honest caller with and without an attack notices when it is slowed."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from handshaked.testing.daemon import RunningDaemon
from tests.handshake_channel import eventually
from tests.hostile import honest
from tests.hostile.honest import FLOORS, LONGEST, Comparison, compare, honest_handshakes, honest_status
from tests.patience import PATIENCE

pytestmark = pytest.mark.needs("root", "public python")

FLOOR = FLOORS["p99"]


def honest_reader(directory: Path, _: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that is slow while ``slow`` runs."""
    slowed = threading.Event()
    return lambda: is_attacked(directory) and slowed.wait(LONGEST + FLOOR)


def honest_failure(directory: Path, _: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that fails while ``slow`` runs."""
    return lambda: is_attacked(directory) and 1 / 0


def is_attacked(directory: Path) -> bool:
    return any(Path("/proc", path.name).exists() for path in directory.iterdir())


def honest_observer(directory: Path, _: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that waits until ``end_early`` has ended."""
    return lambda: eventually(lambda: all(has_ended(path.name) for path in directory.iterdir()))


def has_ended(pid: str) -> bool:
    """Return whether the process is gone, or waits for its parent only."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def slow(directory: Path, underway: Callable[[], None]) -> None:
    """Slow ``honest_reader``."""
    (directory / str(os.getpid())).touch()
    underway()
    threading.Event().wait(PATIENCE)


def do_nothing(directory: Path, underway: Callable[[], None]) -> None:
    """Be there."""
    underway()
    threading.Event().wait(PATIENCE)


def end_early(directory: Path, underway: Callable[[], None]) -> None:
    """Attack for a moment only."""
    (directory / str(os.getpid())).touch()
    underway()


def test_slower_caller_fails_the_comparison() -> None:
    """A caller that is slow in most rounds, and not in all others as well."""
    fast, slower = [0.001] * 200, [0.001] * 190 + [FLOOR + 0.01] * 10
    Comparison([fast], [[0.5 * FLOORS["mean"]] * 197 + [0.9 * FLOOR] * 3]).check()
    Comparison([slower], [slower]).check()
    Comparison([fast] * 3, [fast, slower, fast]).check()
    for rounds in ([slower], [slower, fast, slower]):
        with pytest.raises(AssertionError, match=r"p99: .* ratio of p99: 260\.0"):
            Comparison([fast] * len(rounds), rounds).check()


def test_slower_mean_fails_the_comparison() -> None:
    """A busy machine delays some operations that much, but not all of them."""
    with pytest.raises(AssertionError, match="mean: "):
        Comparison([[0.001] * 200], [[2 * FLOORS["mean"]] * 200]).check()


def test_rounds_are_compared_in_pairs() -> None:
    """Other work on the machine slows the phases of a round alike."""
    fast, slower = [0.001] * 200, [2 * FLOOR] * 200
    Comparison([fast, slower, fast], [slower, slower, fast]).check()
    with pytest.raises(AssertionError, match="mean: "):
        Comparison([fast, slower, fast], [slower, fast, slower]).check()


def test_all_rounds_count_as_one_where_nothing_disturbs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slower = [0.001] * 200, [0.001] * 190 + [0.004] * 10
    Comparison([fast] * 3, [fast, slower, fast]).check()
    monkeypatch.setattr(honest, "EXACT", True)
    with pytest.raises(AssertionError, match=r"p99: .* ratio of p99: 4\.0"):
        Comparison([fast] * 3, [fast, slower, fast]).check()


def test_one_long_operation_fails_the_comparison() -> None:
    fast, stalled = [0.001] * 200, [0.001] * 199 + [LONGEST + 0.1]
    Comparison([stalled] + [fast] * 4, [fast] * 4 + [stalled]).check()
    with pytest.raises(AssertionError, match=r"longest: .* longest 1100\.0 ms"):
        Comparison([fast] * 5, [fast] * 4 + [stalled]).check()


def test_attack_is_measured(public_directory: Path) -> None:
    public_directory.chmod(0o777)
    with pytest.raises(AssertionError, match="ratio of p99"):
        compare(public_directory, honest_reader, slow, rounds=2, seconds=0.3).check()


def test_tests_that_compare_times_run_alone() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        assert path == Path(__file__) or "compare(" not in (text := path.read_text()) or "mark.alone" in text, path


def test_attacker_must_not_end_early(public_directory: Path) -> None:
    public_directory.chmod(0o777)
    with pytest.raises(AssertionError, match="end_early ended early"):
        compare(public_directory, honest_observer, end_early, rounds=1, seconds=0.3)


def test_failed_operation_fails_the_comparison(public_directory: Path) -> None:
    public_directory.chmod(0o777)
    with pytest.raises(AssertionError, match="operation of the honest caller failed"):
        compare(public_directory, honest_failure, slow, rounds=1, seconds=0.3)


@pytest.mark.parametrize(("content", "during"), [("", ""), ("/autogroup-5 nice 3\n", "-20")])
def test_session_is_prioritized_where_there_is_a_group(
    content: str, during: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none in a cgroup with processor shares of its own."""
    monkeypatch.setattr(honest, "AUTOGROUP", tmp_path / "autogroup")
    honest.AUTOGROUP.write_text(content)
    with honest.session_prioritized():
        assert honest.AUTOGROUP.read_text() == during
    assert honest.AUTOGROUP.read_text() == ("3" if content else "")


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("honest", [honest_handshakes, honest_status])
def test_idle_neighbour_costs_nothing(hostile_daemon: RunningDaemon, honest: Callable[..., Callable]) -> None:
    compare(hostile_daemon.directory, honest, do_nothing).check()
