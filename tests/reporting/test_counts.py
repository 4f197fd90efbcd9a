"""Counts: what is added up is what was counted, whichever way it came."""

from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import Alert, Status
from handshaked.model import KERNEL, Caller, Outcome, Request, Role
from handshaked.reporting.counts import BUCKETS, MAX_SERIES, OTHER, HandshakeCounts, Latency, summary

ENDED = st.tuples(
    st.sampled_from([Role.CLIENT, Role.SERVER]),
    st.sampled_from([Caller(5000), KERNEL]),
    st.sampled_from([
        Outcome(status=Status.OK),
        Outcome(status=Status.OK, registration="web"),
        Outcome(status=Status.TIMED_OUT),
        Outcome(status=Status.REFUSED, alert=Alert.UNRECOGNIZED_NAME, registration="web"),
    ]),
    st.floats(0, 100),
)  # fmt: skip


def add(counts: HandshakeCounts, ended: tuple[Role, Caller, Outcome, float]) -> None:
    role, caller, outcome, seconds = ended
    counts.add(Request(role=role, caller=caller, timeout=8), outcome, seconds)


@given(st.lists(ENDED), st.integers(1, 4))
def test_parts_taken_add_up_to_the_whole(all_ended: list[tuple[Role, Caller, Outcome, float]], limit: int) -> None:
    whole, worker, parent = HandshakeCounts(), HandshakeCounts(), HandshakeCounts()
    for index, ended in enumerate(all_ended):
        add(whole, ended)
        add(worker, ended)
        if index % 3 == 0:
            parent.merge(worker.take(limit))
    while worker.handshakes:
        parent.merge(worker.take(limit))
    assert parent.handshakes == whole.handshakes
    assert parent.latencies.keys() == whole.latencies.keys()
    for kind, latency in parent.latencies.items():
        assert latency.counts == whole.latencies[kind].counts
        assert abs(latency.total - whole.latencies[kind].total) < 1e-6
    assert whole.succeeded + whole.failed == len(all_ended)


def test_registrations_beyond_the_limit_share_one_series() -> None:
    counts, parent = HandshakeCounts(), HandshakeCounts()
    for number in range(MAX_SERIES + 100):
        add(counts, (Role.SERVER, Caller(1), Outcome(status=0, registration=f"r{number}"), 0.1))
    assert len(counts.handshakes) == MAX_SERIES + 1
    assert counts.handshakes["ok", "server", "unix", OTHER] == 100
    while counts.handshakes:
        parent.merge(counts.take(256))
    assert parent.succeeded == MAX_SERIES + 100


def test_summary_is_one_word() -> None:
    assert summary(Outcome(status=0)) == "ok"
    assert summary(Outcome(status=13, alert=Alert.CERTIFICATE_EXPIRED)) == "certificate_expired"
    assert summary(Outcome(status=Status.TIMED_OUT)) == "ETIMEDOUT"


@given(st.lists(st.floats(0, BUCKETS[-1]), min_size=1))
def test_quantile_lies_in_its_bucket(values: list[float]) -> None:
    latency = Latency([0] * (len(BUCKETS) + 1))
    for value in values:
        latency.counts[sum(value > bound for bound in BUCKETS)] += 1
    for fraction in (0.5, 0.9, 1.0):
        wanted = sorted(values)[max(0, -(-int(fraction * 1000) * len(values) // 1000) - 1)]
        bucket = sum(wanted > bound for bound in BUCKETS)
        low = BUCKETS[bucket - 1] if bucket else 0
        assert low <= latency.quantile(fraction) <= BUCKETS[bucket]
    assert Latency([0] * (len(BUCKETS) + 1)).quantile(0.5) == 0
