"""The rule for warnings of expiry, which fits the lifetime of a certificate, and the words for them.

A third of the lifetime before its end, and at most 14 days, a certificate should have been renewed: clients of ACME
renew at that time, whether certificates live for 90 days, for six, or for one.
"""

import enum
import time

HOUR = 3600
DAY = 24 * HOUR
LONGEST_WARNING = 14 * DAY
"""The longest time before its end, in seconds, at which a certificate expires soon."""
_SOON = 3
_MAX_URGENT, _URGENT = 3 * DAY, 15


class Expiry(enum.IntEnum):
    """Stages of a certificate's approach to its end, in ascending order."""

    FAR = 0
    SOON = 1
    URGENT = 2
    EXPIRED = 3


def warning_time(not_before: float, not_after: float) -> float:
    """Return the Unix time from which a certificate expires soon; times are in Unix seconds."""
    return not_after - min(LONGEST_WARNING, (not_after - not_before) / _SOON)


def expiry(not_before: float, not_after: float, now: float) -> Expiry:
    """Return how close a certificate is to its end at `now`; times are in Unix seconds."""
    if now >= not_after:
        return Expiry.EXPIRED
    if now > not_after - min(_MAX_URGENT, (not_after - not_before) / _URGENT):
        return Expiry.URGENT
    return Expiry.SOON if now > warning_time(not_before, not_after) else Expiry.FAR


def expires(not_after: float, now: float) -> str:
    """Say when a certificate expires, or that it has."""
    left = not_after - now
    if left <= 0:
        return f"expired on {date(not_after)}"
    return f"expires in {duration(left) if left < 2 * DAY else f'{int(left / DAY)} days'}"


def date(timestamp: float) -> str:
    """Return the UTC day of a Unix time in seconds, as YYYY-MM-DD."""
    return time.strftime("%Y-%m-%d", time.gmtime(timestamp))


def duration(seconds: float) -> str:
    """Return `seconds` in the two largest units."""
    for size, name, smaller, least in ((DAY, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} {int(seconds % size // smaller)} {least}"
    return f"{seconds:.0f} s"
