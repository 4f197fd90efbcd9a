"""The log lines and fields of finished handshakes."""

import asyncio
import logging

import pytest

from handshaked.callers.log_limit import LogLimit
from handshaked.errors import Status
from handshaked.model import KERNEL, Caller, Outcome, Request, Role
from handshaked.reporting.outcomes import OutcomeRecorder, describe, fields_of

REQUEST = Request(role=Role.SERVER, caller=KERNEL, timeout=1.0)


def test_psk_identity_is_logged() -> None:
    outcome = Outcome(status=0, reason="", psk_identity=b"NVMe1R01 host subsystem")
    assert 'psk="NVMe1R01 host subsystem"' in describe(REQUEST, outcome, 0.0)
    assert fields_of(REQUEST, outcome, 0.0)["psk"] == "NVMe1R01 host subsystem"


def test_psk_identity_of_any_bytes_is_one_word() -> None:
    outcome = Outcome(status=0, reason="", psk_identity=b'\xff\n" outcome=failed')
    line = describe(REQUEST, outcome, 0.0)
    assert "\n" not in line
    assert '\\" outcome=failed"' in line


def test_tags_are_logged_as_text_and_as_field() -> None:
    outcome = Outcome(status=0, reason="", tags=("friend", "of-ours"))
    assert "tags=friend,of-ours" in describe(REQUEST, outcome, 0.0)
    assert fields_of(REQUEST, outcome, 0.0)["tags"] == "friend,of-ours"


def test_failures_of_one_caller_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        limit = LogLimit(lines=3)
        recorder = OutcomeRecorder(limit)
        for uid in (*[12345] * 20, 54321):
            request = Request(role=Role.SERVER, caller=Caller(uid), timeout=1.0)
            recorder(request, Outcome(status=Status.CANCELED, reason="canceled"), 0.0)
        recorder.flush()
        limit.report_dropped()
        assert recorder.counts == {"failed": 21}

    asyncio.run(scenario())
    assert ["caller=12345" in line for line in caplog.messages] == [True, True, True, False, False]
    assert caplog.messages[-1] == "... and 17 more lines caused by uid 12345 were dropped"


def test_every_success_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        recorder = OutcomeRecorder(LogLimit(lines=3))
        for _ in range(20):
            recorder(REQUEST, Outcome(status=Status.OK, reason=""), 0.0)
        recorder.flush()

    caplog.set_level(logging.INFO)
    asyncio.run(scenario())
    assert [line.partition(" ")[0] for line in caplog.messages] == ["outcome=ok"] * 20
