"""Counts: what is added up is what was counted, whichever way it came."""

from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import Alert, Status
from handshaked.model import KERNEL, Caller, Outcome, Request, Role
from handshaked.reporting.counts import BUCKETS, MAX_SERIES, OTHER, Latency, Tally, why

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


def add(tally: Tally, ended: tuple[Role, Caller, Outcome, float]) -> None:
    role, caller, outcome, seconds = ended
    tally.add(Request(role=role, caller=caller, timeout=8), outcome, seconds)


@given(st.lists(ENDED), st.integers(1, 4))
def test_what_is_taken_in_parts_is_the_whole(all_ended: list[tuple[Role, Caller, Outcome, float]], limit: int) -> None:
    whole, worker, parent = Tally(), Tally(), Tally()
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


def test_registrations_without_number_share_one_series() -> None:
    tally, parent = Tally(), Tally()
    for number in range(MAX_SERIES + 100):
        add(tally, (Role.SERVER, Caller(1), Outcome(status=0, registration=f"r{number}"), 0.1))
    assert len(tally.handshakes) == MAX_SERIES + 1
    assert tally.handshakes["ok", "server", "unix", OTHER] == 100
    while tally.handshakes:
        parent.merge(tally.take(256))
    assert parent.succeeded == MAX_SERIES + 100


def test_in_one_word() -> None:
    assert why(Outcome(status=0)) == "ok"
    assert why(Outcome(status=13, alert=Alert.CERTIFICATE_EXPIRED)) == "certificate_expired"
    assert why(Outcome(status=Status.TIMED_OUT)) == "ETIMEDOUT"


@given(st.lists(st.floats(0, BUCKETS[-1]), min_size=1))
def test_quantiles_are_in_the_right_bucket(values: list[float]) -> None:
    latency = Latency([0] * (len(BUCKETS) + 1))
    for value in values:
        latency.counts[sum(value > bound for bound in BUCKETS)] += 1
    for fraction in (0.5, 0.9, 1.0):
        wanted = sorted(values)[max(0, -(-int(fraction * 1000) * len(values) // 1000) - 1)]
        bucket = sum(wanted > bound for bound in BUCKETS)
        low = BUCKETS[bucket - 1] if bucket else 0
        assert low <= latency.quantile(fraction) <= BUCKETS[bucket]
    assert Latency([0] * (len(BUCKETS) + 1)).quantile(0.5) == 0
