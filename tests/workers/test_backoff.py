"""The pauses before a worker is restarted."""

from handshaked.workers.backoff import Backoff


def test_killed_worker_returns_within_a_second_however_often() -> None:
    backoff = Backoff()
    pauses = [backoff.after_service(0.5) for _ in range(30)]
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert set(pauses[4:]) == {1.0}


def test_worker_that_fails_to_start_is_tried_less_and_less_often() -> None:
    backoff = Backoff()
    pauses = [backoff.after_failed_start() for _ in range(10)]
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert pauses[-2:] == [10.0, 10.0]
    assert backoff.after_service(0.5) == 1.0


def test_pauses_are_short_again_after_a_steady_run() -> None:
    backoff = Backoff()
    for _ in range(9):
        backoff.after_failed_start()
    assert backoff.after_service(31.0) == 0.1
