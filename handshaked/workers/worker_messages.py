"""Check the messages of workers: they parse what strangers send, so one of them may be compromised.

The parent adds up, keeps and passes on what is in these messages, so it accepts only the fields and types that workers
send, and numbers and texts that every recipient can represent.
"""

from collections.abc import Callable

from handshaked.errors import RefusedError
from handshaked.reporting.counts import BUCKETS
from handshaked.wire.json_packets import Message

_LIMIT = 1 << 63
_TEXTS_OF_RECORDS = frozenset(("registration", "server_name", "outcome", "role"))

_ABSENT = object()

_Check = Callable[[object], bool]


def check_message(message: Message) -> None:
    """Raise RefusedError if `message` is none that a worker sends; the text says which field is malformed."""
    event = message.get("event")
    checks = _EVENTS.get(event) if isinstance(event, str) else None
    if checks is None:
        raise RefusedError("its event is unknown")
    if message.keys() - checks.keys() - {"event"}:
        raise RefusedError("it has an unknown field")
    for name, check in checks.items():
        if not check(message.get(name, _ABSENT)):
            raise RefusedError(f"its field {name} is missing or malformed")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and -_LIMIT < value < _LIMIT  # not NaN


def _count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < _LIMIT


def _generation(value: object) -> bool:
    return isinstance(value, int) and -_LIMIT < value < _LIMIT


def _text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _optional(check: _Check) -> _Check:
    return lambda value: value is _ABSENT or check(value)


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _record(value: object) -> bool:
    return isinstance(value, dict) and all(
        _text(name) and (_text(content) or (_number(content) and name not in _TEXTS_OF_RECORDS))
        for name, content in value.items()
    )


def _handshake(value: object) -> bool:
    return isinstance(value, list) and len(value) == 5 and all(map(_text, value[:4])) and _count(value[4])


def _latency(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    role, source, counts, total = value
    of_buckets = isinstance(counts, list) and len(counts) == len(BUCKETS) + 1 and all(map(_count, counts))
    kinds = role in ("client", "server") and source in ("kernel", "unix")
    return kinds and of_buckets and _number(total) and total >= 0


def _counts(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"handshakes", "latencies"}:
        return False
    return _list_of(_handshake)(value["handshakes"]) and _list_of(_latency)(value["latencies"])


def _kernel(value: object) -> bool:
    return value is None or _list_of(_kernel_source)(value)


def _kernel_source(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(_text(name) and (_text(content) or _number(content)) for name, content in value.items())
        and _text(value.get("network_namespace"))
        and _text(value.get("state"))
    )


_ANSWER = {"number": _optional(_count)}
_EVENTS: dict[str, dict[str, _Check]] = {
    "ready": {"generation": _generation, **_ANSWER},
    "refreshed": {"generation": _generation, **_ANSWER},
    "outcomes": {"records": _list_of(_record), "counts": _optional(_counts), "left_out": _optional(_count)},
    "status": {
        "in_flight": _count,
        "queue": _count,
        "kernel": _kernel,
        "succeeded": _optional(_count),
        "failed": _optional(_count),
        **_ANSWER,
    },
}
