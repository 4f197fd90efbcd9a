"""The owners of subordinate user ids: one user must not evade the limits for one user with the uids of its range.

``newuidmap`` lets any user take on the uids of a range in /etc/subuid, usually 65,536 of them.
"""

import os
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_CHECK_SECONDS = 1.0
_MAX_RANGES = 65536
_MAX_NESTING = 8
_CONTAINER = 65536  # root's ranges are for containers, which get so many uids each and are not root

Range = tuple[int, int, int]
"""First uid, the uid after the last one, and the uid of the owner."""


class Owners:
    """Finds the owner of a uid in the file `subordinate` (subuid(5)), which is read again when it changes.

    The owners' names are looked up in the file `users` only, as other sources can block. The uids of an owner that is
    not there count as the first one of its range. Where ranges overlap, the outermost counts, and a user's before
    root's; an owner that is itself a subordinate uid counts as its own owner.
    """

    def __init__(self, subordinate: Path = Path("/etc/subuid"), users: Path = Path("/etc/passwd")) -> None:
        self._subordinate = subordinate
        self._users = users
        self._checked = float("-inf")
        self._stamp: tuple[int, ...] = ()
        self._ranges: list[Range] = []
        self._containers: list[Range] = []

    def owner_of(self, uid: int) -> int:
        """Return the uid that `uid` counts as: that of its owner, or `uid` itself."""
        if uid == 0:
            return uid
        self._refresh()
        owner = uid
        for _ in range(_MAX_NESTING):
            found = _range_of(owner, self._ranges)
            if found is None or found[2] == owner:
                break
            owner = found[2]
        container = _range_of(owner, self._containers)
        return owner if container is None else owner - (owner - container[0]) % _CONTAINER

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        try:
            status = os.stat(self._subordinate)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                ranges = list(_ranges(self._subordinate, _uids(self._users)))
                self._ranges = _disjoint(one for one in ranges if one[2])
                self._containers = _disjoint(one for one in ranges if not one[2])
                self._stamp = stamp
        except FileNotFoundError:
            self._ranges, self._containers, self._stamp = [], [], ()
        except OSError:  # keep what is known
            return


def _disjoint(ranges: Iterable[Range]) -> list[Range]:
    """Return `ranges` in order and without what an earlier or enclosing one covers."""
    found: list[Range] = []
    covered = 0
    for first, end, owner in sorted(ranges, key=lambda one: (one[0], -one[1])):
        if end > max(first, covered):
            found.append((max(first, covered), end, owner))
            covered = end
    return found


def _range_of(uid: int, ranges: list[Range]) -> Range | None:
    """Return the one of the disjoint, sorted `ranges` with `uid`."""
    at = bisect_right(ranges, uid, key=lambda one: one[0]) - 1
    return ranges[at] if at >= 0 and uid < ranges[at][1] else None


def _ranges(path: Path, uids: dict[str, int]) -> Iterator[Range]:
    owners: dict[str, int] = {}
    for line in path.read_text(errors="replace").splitlines()[:_MAX_RANGES]:
        with suppress(ValueError):  # not OWNER:FIRST:COUNT
            name, begin, count = line.strip().split(":")
            first = int(begin)
            owner = owners.setdefault(name, int(name) if name.isdecimal() else uids.get(name, first))
            yield first, first + int(count), owner


def _uids(path: Path) -> dict[str, int]:
    uids = {}
    for line in path.read_text(errors="replace").splitlines():
        words = line.split(":")
        if len(words) > 2 and words[2].isdecimal():
            uids[words[0]] = int(words[2])
    return uids


_OWNERS = Owners()


def owner_of(uid: int) -> int:
    """Return the uid that `uid` counts as by this machine's /etc/subuid."""
    return _OWNERS.owner_of(uid)
