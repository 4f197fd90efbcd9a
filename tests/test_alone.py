"""Tests that compare times run while no other test does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.testing.processes import ending
from tests.patience import run_program
from tests.plugins.alone import Room
from tests.run_name import RUN, VARIABLE

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys
from pathlib import Path
from tests.plugins.alone import Room
room = Room(Path(sys.argv[1]))
with room.entered("the other", alone=sys.argv[2] == "alone"):
    print("entered", flush=True)
    sys.stdin.read()
"""
TESTS = """
import pytest
from pathlib import Path

LOG = Path(__file__).parent / "log"

def write(line):
    with LOG.open("a") as log:
        log.write(line + "\\n")

@pytest.fixture(params=range(20))
def number(request):
    write("begin together")
    yield
    write("end together")

@pytest.fixture(params=range(3))
def other_number(request):
    write("begin alone")
    yield
    write("end alone")

def test_together(number):
    pass

@pytest.mark.alone
def test_alone(other_number):
    pass
"""


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path / "lock")
    yield room
    room.close()


def entering(room: Room, how: str) -> subprocess.Popen[str]:
    """Start a process that enters, says so, and leaves at the end of its input."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(room.path), how],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("inside", "alone", "enters"),
    [("together", False, True), ("together", True, False), ("alone", False, False), ("alone", True, False)],
)
def test_room_is_shared_or_exclusive(room: Room, inside: str, alone: bool, enters: bool) -> None:
    with ending(entering(room, inside)) as holder:
        assert holder.stdout.readline() == "entered\n"
        if not enters:
            with pytest.raises(TimeoutError, match="this one did not get its turn"), room.entered(
                "this one", alone=alone, patience=0.0
            ):  # fmt: skip
                pass
            holder.stdin.close()
        with room.entered("this one", alone=alone):
            pass


def enter_again_and_again(room: Room) -> None:
    """Enter until somebody else waits at the turnstile."""
    while True:
        with room.entered("this one", alone=False, patience=0.0):
            pass


def test_waiting_test_is_not_overtaken(room: Room) -> None:
    """While one waits to be alone, nobody else enters, not even to be there together."""
    with ending(entering(room, "together")) as first:
        assert first.stdout.readline() == "entered\n"
        with ending(entering(room, "alone")) as waiting:
            with pytest.raises(TimeoutError):
                enter_again_and_again(room)
            first.stdin.close()
            assert waiting.stdout.readline() == "entered\n"
            waiting.stdin.close()


def test_workers_take_turns_and_end(tmp_path: Path) -> None:
    (tmp_path / "test_inside.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    alone: takes turns\n")
    run_program(
        sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-p", "tests.plugins.alone", tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: f"{RUN}inside"}, cwd=tmp_path,
    )  # fmt: skip
    lines = (tmp_path / "log").read_text().split("\n")
    assert lines.count("begin together") == 20
    begun = [place for place, line in enumerate(lines) if line == "begin alone"]
    assert len(begun) == 3
    for place in begun:
        assert lines[:place].count("begin together") == lines[:place].count("end together")
        assert lines[place + 1] == "end alone"
