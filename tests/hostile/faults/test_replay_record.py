"""The record of used tickets while system calls fail: no ticket is accepted twice."""

import os
import sys
from pathlib import Path

import pytest

from tests.hostile.faults import replay_program
from tests.hostile.faults.injector import Injector
from tests.patience import BUILD_PATIENCE, run_program

pytestmark = [pytest.mark.slow, pytest.mark.needs("cc")]


def test_no_ticket_is_accepted_twice(tmp_path: Path) -> None:
    with Injector(tmp_path) as injector:
        ended = run_program(
            sys.executable, "-m", replay_program.__name__, tmp_path, "handshaked.worker",
            timeout=BUILD_PATIENCE, env={**os.environ, **injector.environment},
        )  # fmt: skip
    assert int(ended.stdout) > 300
    assert not (tmp_path / "used-tickets.db.damaged").exists(), "errors were taken for damage"
