"""Watch files with inotify(7), through the symbolic links that renewal tools swap.

certbot replaces ``live/NAME/privkey.pem -> ../../archive/NAME/privkey7.pem``, Kubernetes ``..data -> ..2026_01_01``,
acme.sh writes in place. Therefore the directory of the file, and of every symbolic link on its path, is watched.

Paths are resolved in a thread of the user whose registration names them, and within limits: they may be long chains of
links, or on a file system that does not answer.

Users may also change their files without end. After ``MAX_EVENTS`` in one burst, every directory with a further event
is muted: it is not watched for a while, and then all files in it count as changed. So events take a bounded time.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from handshaked.callers.owners import owner_of
from handshaked.control.files.readers import Readers
from handshaked.control.requests.loading import is_trusted
from handshaked.errors import RefusedError
from handshaked.system.readiness import Readiness
from handshaked.system.tasks import Tasks

_IN_CLOSE_WRITE, _IN_MOVED_FROM, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
_IN_DELETE_SELF, _IN_MOVE_SELF, _IN_ATTRIB = 0x400, 0x800, 0x4
_IN_ONLYDIR = 0x01000000
_IN_Q_OVERFLOW, _IN_IGNORED = 0x4000, 0x8000
_EVENTS = (
    _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_DELETE_SELF | _IN_MOVE_SELF
    | _IN_ATTRIB | _IN_ONLYDIR
)  # fmt: skip
_HEADER = struct.Struct("=iIII")
_MAX_LINKS = 40
_MAX_VISITED = 1024  # directories and links on one path
MAX_VISITED_BY_USER = 16_384
"""Directories and links on all paths of a user that are resolved at a time; users who are trusted have no limit."""
MAX_EVENTS = 1024
"""Events of a burst after which directories are muted."""
_MAX_READ = 8192  # bytes of events at a time: less than a millisecond of work
_LONGEST = 8
_Step = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class _Located:
    """The directories in which the resolution of ``path`` can change, and their watches: a number, or an error."""

    path: str
    steps: list[_Step]
    watches: dict[str, int | str] = field(default_factory=dict)


class Watch:
    """Watch the files last passed to ``follow``.

    `on_change` is called with files as soon as they are watched, because they may have changed before. Later it is
    called with those that may have changed, `quiet` seconds after the last change of a burst, and at the latest
    ``_LONGEST`` times as long after the first, which is also how long a directory is muted. `on_problem` is called with
    a text and the uid of the user whose files cannot be watched. `readers` run what may block.
    """

    def __init__(
        self,
        on_change: Callable[[set[str]], object],
        quiet: float,
        readers: Readers,
        on_problem: Callable[[str, int], object],
    ) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "inotify")
        self._on_change = on_change
        self._on_problem = on_problem
        self._readers = readers
        self._tasks = Tasks("the watch of files")
        self._owners: Mapping[str, int] = {}
        self._locating = 0
        self._quiet = quiet
        self._loop = asyncio.get_running_loop()
        self._planned: asyncio.TimerHandle | None = None
        self._touched: set[str] = set()
        self._latest = 0.0
        self._events = 0
        self._muted: set[asyncio.TimerHandle] = set()
        self._late: set[str] = set()
        self._steps: dict[str, list[_Step]] = {}
        self._paths: dict[str, dict[bytes, set[str]]] = {}
        self._numbers: dict[str, int] = {}
        self._directories: dict[int, set[str]] = {}
        self._reading = Readiness(self._descriptor, "inotify(7)", self._read)
        self._reading.start()

    def close(self) -> None:
        """Stop watching."""
        if self._planned is not None:
            self._planned.cancel()
        for muted in self._muted:
            muted.cancel()
        self._tasks.cancel()
        self._reading.stop()
        os.close(self._descriptor)
        self._descriptor = -1  # for threads that are still busy

    def follow(self, owners: Mapping[str, int]) -> set[str]:
        """Watch the paths in `owners`, each with the uid of its user, and nothing else.

        Return those that are not watched yet, with which ``on_change`` will be called.
        """
        self._owners = owners
        for path in self._steps.keys() - owners.keys():
            self._remove(path)
        new = owners.keys() - self._steps.keys()
        self._locate(new)
        return new

    def follow_now(self, path: str) -> None:
        """Watch `path` of the administrator, too, without a thread."""
        self._owners = {**self._owners, path: 0}
        for found in self._located([path], None):
            self._put(found, 0)

    def _locate(self, paths: Iterable[str]) -> None:
        by_owner: dict[int, set[str]] = {}
        for path in paths:
            by_owner.setdefault(owner_of(self._owners.get(path, 0)), set()).add(path)
        for owner, those in by_owner.items():
            self._tasks.start(self._locate_of(owner, those))

    async def _locate_of(self, owner: int, paths: set[str]) -> None:
        budget = None if is_trusted(owner) else iter(range(MAX_VISITED_BY_USER))
        self._locating += 1
        try:
            for found in await self._readers.read(owner, lambda _: self._located(sorted(paths), budget)):
                self._put(found, owner)
        except (OSError, RefusedError) as error:
            self._on_problem(f"files cannot be watched: {error}", owner)
        finally:
            self._locating -= 1
        if budget is not None and next(budget, None) is None:
            self._on_problem(f"uid {owner}: not all files are watched: too many links are on their paths", owner)
        self._forget_directories()
        self._on_change(paths)

    def _located(self, paths: Iterable[str], budget: Iterator[int] | None) -> list[_Located]:
        """Resolve `paths`, and watch the directories on them. May block."""
        found = []
        for path in paths:
            visits = iter(range(_MAX_VISITED)) if budget is None else islice(budget, _MAX_VISITED)
            on_path = steps(path, visits)
            directories = dict.fromkeys(directory for directory, _ in on_path)
            found.append(_Located(path, on_path, {directory: self._watch(directory) for directory in directories}))
        return found

    def _watch(self, directory: str) -> int | str:
        """Return the number of the watch of `directory`, or why there is none."""
        number: int = self._libc.inotify_add_watch(self._descriptor, os.fsencode(directory), _EVENTS)
        return os.strerror(ctypes.get_errno()) if number < 0 else number

    def _put(self, found: _Located, owner: int) -> None:
        """Use what was `found`, unless nobody follows its path any more."""
        self._remove(found.path)
        if found.path not in self._owners:
            return
        self._steps[found.path] = found.steps
        for directory, name in found.steps:
            self._paths.setdefault(directory, {}).setdefault(name, set()).add(found.path)
        for directory, number in found.watches.items():
            if isinstance(number, str):
                self._on_problem(f"{directory}: cannot be watched: {number}", owner)
                continue
            old = self._numbers.get(directory)
            if old not in (None, number):
                self._directories[old].discard(directory)
            self._numbers[directory] = number
            self._directories.setdefault(number, set()).add(directory)

    def _remove(self, path: str) -> None:
        for directory, name in self._steps.pop(path, ()):
            names = self._paths.get(directory, {})
            names.get(name, set()).discard(path)
            if not names.get(name):
                names.pop(name, None)
            if not names:
                self._paths.pop(directory, None)

    def _read(self) -> None:
        try:
            events = os.read(self._descriptor, _MAX_READ)
        except BlockingIOError:
            return
        position = 0
        touched: set[str] = set()
        while position < len(events):
            number, mask, _, length = _HEADER.unpack_from(events, position)
            position += _HEADER.size
            name = events[position : position + length].rstrip(b"\0")
            position += length
            if mask & _IN_Q_OVERFLOW:
                touched.update(self._steps)
            elif number in self._directories:
                touched.update(self._touched_by(number, name))
                self._events += 1
                if not name and mask & (_IN_IGNORED | _IN_MOVE_SELF):
                    self._unwatch(number)
                elif self._events > MAX_EVENTS:
                    self._mute(number)
        self._touch(touched)

    def _touched_by(self, number: int, name: bytes) -> set[str]:
        """Return the paths that may have changed by an event of the watch `number` for `name`, if any."""
        found: set[str] = set()
        for directory in self._directories[number]:
            names = self._paths.get(directory, {})
            found.update(*((names.get(name, ()), names.get(b"", ())) if name else names.values()))
        return found

    def _unwatch(self, number: int) -> set[str]:
        """Remove the watch `number`; return its directories."""
        directories = self._directories.pop(number)
        for directory in directories:
            self._numbers.pop(directory, None)
        self._libc.inotify_rm_watch(self._descriptor, number)  # no effect if the kernel has already removed it
        return directories

    def _mute(self, number: int) -> None:
        """Do not watch the directories of the watch `number` for a while; then all paths in them may have changed."""
        late = self._touched_by(number, b"")
        directories = self._unwatch(number)
        self._late |= late
        self._touched -= late

        def unmute() -> None:
            self._muted.discard(timer)
            self._late -= late
            for directory in directories:
                self._touch(set().union(*self._paths.get(directory, {}).values()))

        timer = self._loop.call_later(_LONGEST * self._quiet, unmute)
        self._muted.add(timer)

    def _touch(self, paths: set[str]) -> None:
        paths = paths - self._late
        if not paths:
            return
        before = len(self._touched)
        self._touched |= paths
        now = self._loop.time()
        if before == 0:
            self._latest = now + _LONGEST * self._quiet
        if self._planned is not None:
            self._planned.cancel()
        self._planned = self._loop.call_at(min(now + self._quiet, self._latest), self._fire)

    def _fire(self) -> None:
        self._planned = None
        self._events = 0
        touched, self._touched = self._touched, set()
        self._locate(touched & self._owners.keys())  # the paths may resolve differently now

    def _forget_directories(self) -> None:
        """Stop watching directories that are on no path any more, unless a thread may just have begun to watch them."""
        if self._locating:
            return
        for directory in self._numbers.keys() - self._paths.keys():
            number = self._numbers.pop(directory)
            self._directories[number].discard(directory)
            if not self._directories[number]:
                self._unwatch(number)


def steps(path: str, visits: Iterator[int]) -> list[_Step]:
    """Return where the resolution of `path` can change: each symbolic link, and its end, as directory and name.

    A path that ends in ``/`` stands for all entries of that directory: the name is empty. The resolution ends early
    when `visits`, of which each part of the path and of the links on it takes one, are used up.
    """
    found: list[_Step] = []
    whole = path.endswith("/")
    left = [part for part in path.split("/") if part][::-1]
    at = "/"
    links = 0
    known: dict[str, str | bool] = {}  # paths that go back and forth take no more system calls than others
    while left:
        part = left.pop()
        if next(visits, None) is None:
            return found
        if part in (".", ".."):
            at = os.path.dirname(at) if part == ".." else at
            continue
        here = f"{at.rstrip('/')}/{part}"
        if here not in known:
            known[here] = _looked_up(here)
        target = known[here]
        if isinstance(target, str) or not target or not (left or whole):
            found.append((at, part.encode(errors="surrogateescape")))
        if not isinstance(target, str):
            if not target:
                return found  # it may be created later
            at = here
            continue
        links += 1
        if links > _MAX_LINKS:
            return found
        at = "/" if target.startswith("/") else at
        left += [part for part in target.split("/") if part][::-1]
    if whole:
        found.append((at, b""))
    return found


def _looked_up(path: str) -> str | bool:
    """Return the target of the symbolic link at `path`, or whether a directory is there."""
    try:
        return os.readlink(path)
    except OSError:
        return os.path.isdir(path)
