"""Messages of workers: what workers send is accepted, and what could harm the parent or its clients is not."""

import asyncio
from typing import Any

import pytest

from handshaked.callers.log_limit import LogLimit
from handshaked.errors import Alert, RefusedError, Status
from handshaked.model import KERNEL, Caller, CipherSuite, Outcome, Request, Role
from handshaked.reporting.counts import BUCKETS
from handshaked.reporting.outcomes import Message, OutcomeRecorder
from handshaked.workers.worker_messages import check_message

STATUS = {"event": "status", "in_flight": 0, "queue": 0, "kernel": None}
SOURCE = {"network_namespace": ".", "state": "serving", "in_flight": 0, "accepted": 3}
OUTCOMES = [
    Outcome(status=Status.OK),
    Outcome(
        status=Status.OK,
        registration="web",
        server_name="a.example.com",
        alpn=b"\xff\n",
        cipher_suite=next(iter(CipherSuite)),
        resumed=True,
        psk_identity=b"\0\xff",
        peer_keys=(-1, 7),
        tags=("a", "b"),
    ),
    Outcome(status=Status.REFUSED, alert=Alert.UNRECOGNIZED_NAME, reason="no \ud800 such\nname"),
]


def batches() -> list[Message]:
    """Return the batch of a worker with handshakes of each kind."""
    sent: list[Message] = []

    async def record() -> None:
        recorder = OutcomeRecorder(LogLimit(), sent.append)
        for caller in (Caller(12345, pid=7), KERNEL):
            for outcome in OUTCOMES:
                request = Request(role=Role.SERVER, caller=caller, timeout=1.0, peer_address="[2001:db8::1]:443")
                recorder(request, outcome, 0.01)
        recorder.flush()

    asyncio.run(record())
    return sent


def outcomes(**changes: Any) -> Message:
    """Return a message with the outcomes of a worker, changed."""
    return {"event": "outcomes", **batches()[0], **changes}


@pytest.mark.parametrize(
    "message",
    [
        {"event": "ready", "generation": -1},
        {"event": "refreshed", "generation": 3, "number": 5},
        STATUS,
        {**STATUS, "kernel": [SOURCE], "succeeded": 1, "failed": 2, "number": 7},
        {"event": "outcomes", "records": []},
        outcomes(),
    ],
)
def test_messages_of_workers_are_accepted(message: Message) -> None:
    check_message(message)


def with_counts(**changes: Any) -> Message:
    return outcomes(counts={**batches()[0]["counts"], **changes})


def with_record(**fields: Any) -> Message:
    return outcomes(records=[fields])


BUCKET_COUNTS = [0] * (len(BUCKETS) + 1)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"event": ["ready"], "generation": 1},
        {"event": "other"},
        {"event": "ready"},
        {"event": "ready", "generation": "1"},
        {"event": "ready", "generation": 1 << 64},
        {"event": "refreshed", "generation": 1, "number": [1]},
        {**STATUS, "pid": 1},
        {**STATUS, "queue": -1},
        {**STATUS, "succeeded": None},
        {**STATUS, "kernel": [{**SOURCE, "state": 1}]},
        {**STATUS, "kernel": [{"state": "serving"}]},
        {**STATUS, "kernel": [{**SOURCE, "more": []}]},
        {"event": "outcomes"},
        outcomes(counts=None),
        outcomes(left_out=-1),
        with_record(server_name=1),
        with_record(registration=["web"]),
        with_record(reason="two\nlines"),
        with_record(reason="\ud800"),
        with_record(ms=float("nan")),
        with_record(ms=float("inf")),
        with_record(pid=1 << 63),
        outcomes(records=["record"]),
        with_counts(handshakes=[["ok", "server", "unix", "web"]]),
        with_counts(handshakes=[["ok", "server", "unix", ["web"], 1]]),
        with_counts(handshakes=[["ok", "server", "unix", "web", -1]]),
        with_counts(more=[]),
        with_counts(latencies=[["server", "unix", [], 0.0]]),
        with_counts(latencies=[["server", "elsewhere", BUCKET_COUNTS, 0.0]]),
        with_counts(latencies=[["server", "unix", BUCKET_COUNTS, float("nan")]]),
        with_counts(latencies=[["server", "unix", BUCKET_COUNTS, -1.0]]),
    ],
)
def test_other_messages_are_refused(message: Message) -> None:
    with pytest.raises(RefusedError, match=r"^(its event|its field|it has)"):
        check_message(message)
