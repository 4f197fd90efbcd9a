"""Watch files with inotify(7), through the symbolic links that renewal tools swap.

certbot replaces ``live/NAME/privkey.pem -> ../../archive/NAME/privkey7.pem``, Kubernetes ``..data -> ..2026_01_01``,
acme.sh writes in place. Therefore the directory of the file, and of every symbolic link on its path, is watched.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Iterable

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
_LONGEST = 8
_Step = tuple[str, bytes]


class Watch:
    """Watch the files last passed to ``follow``.

    `on_change` is called with the files that may have changed, `quiet` seconds after the last change of a burst, and at
    the latest ``_LONGEST`` times as long after the first.
    """

    def __init__(self, on_change: Callable[[set[str]], object], quiet: float) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "inotify")
        self._on_change = on_change
        self._quiet = quiet
        self._loop = asyncio.get_running_loop()
        self._planned: asyncio.TimerHandle | None = None
        self._touched: set[str] = set()
        self._latest = 0.0
        self._steps: dict[str, list[_Step]] = {}
        self._paths: dict[_Step, set[str]] = {}
        self._numbers: dict[str, int] = {}
        self._directories: dict[int, set[str]] = {}
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Stop watching."""
        if self._planned is not None:
            self._planned.cancel()
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def follow(self, paths: set[str]) -> list[str]:
        """Watch `paths` and nothing else; return a message for each directory that cannot be watched."""
        for path in self._steps.keys() - paths:
            self._remove(path)
        return [problem for path in paths - self._steps.keys() for problem in self._add(path)]

    def _add(self, path: str) -> list[str]:
        problems = []
        self._steps[path] = steps(path)
        for step in self._steps[path]:
            self._paths.setdefault(step, set()).add(path)
            if step[0] not in self._numbers:
                problems += self._watch(step[0])
        return problems

    def _remove(self, path: str) -> None:
        for step in self._steps.pop(path):
            self._paths[step].discard(path)
            if not self._paths[step]:
                del self._paths[step]

    def _watch(self, directory: str) -> list[str]:
        number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(directory), _EVENTS)
        if number < 0:
            return [f"{directory}: cannot be watched: {os.strerror(ctypes.get_errno())}"]
        self._numbers[directory] = number
        self._directories.setdefault(number, set()).add(directory)
        return []

    def _read(self) -> None:
        try:
            events = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        position = 0
        while position < len(events):
            number, mask, _, length = _HEADER.unpack_from(events, position)
            position += _HEADER.size
            name = events[position : position + length].rstrip(b"\0")
            position += length
            if mask & _IN_Q_OVERFLOW:
                self._touch(self._steps)
            elif not name:
                self._on_directory_event(number, removed=bool(mask & (_IN_IGNORED | _IN_MOVE_SELF)))
            else:
                for directory in self._directories.get(number, ()):
                    self._touch(self._paths.get((directory, name), ()))
                    self._touch(self._paths.get((directory, b""), ()))

    def _on_directory_event(self, number: int, *, removed: bool) -> None:
        """Handle an event of a watched directory itself."""
        for directory in self._directories.get(number, ()):
            self._touch([path for step, paths in self._paths.items() if step[0] == directory for path in paths])
        if removed:
            for directory in self._directories.pop(number, ()):
                del self._numbers[directory]
            self._libc.inotify_rm_watch(self._descriptor, number)  # no effect if the kernel has already removed it

    def _touch(self, paths: Iterable[str]) -> None:
        before = len(self._touched)
        self._touched.update(paths)
        if not self._touched:
            return
        now = self._loop.time()
        if before == 0:
            self._latest = now + _LONGEST * self._quiet
        if self._planned is not None:
            self._planned.cancel()
        self._planned = self._loop.call_at(min(now + self._quiet, self._latest), self._fire)

    def _fire(self) -> None:
        self._planned = None
        touched, self._touched = self._touched, set()
        for path in touched & self._steps.keys():  # the path may resolve differently now
            self._remove(path)
            self._add(path)
        self._forget_directories()
        self._on_change(touched)

    def _forget_directories(self) -> None:
        """Stop watching directories that are on no path any more."""
        used = {directory for directory, _ in self._paths}
        for directory in self._numbers.keys() - used:
            number = self._numbers.pop(directory)
            self._directories[number].discard(directory)
            if not self._directories[number]:
                del self._directories[number]
                self._libc.inotify_rm_watch(self._descriptor, number)


def steps(path: str) -> list[_Step]:
    """Return where the resolution of `path` can change: each symbolic link, and its end, as directory and name.

    A path that ends in ``/`` stands for all entries of that directory: the name is empty.
    """
    found: list[_Step] = []
    whole = path.endswith("/")
    left = [part for part in path.split("/") if part][::-1]
    at = "/"
    links = 0
    while left:
        part = left.pop()
        if part in (".", ".."):
            at = os.path.dirname(at) if part == ".." else at
            continue
        here = os.path.join(at, part)
        try:
            target = os.readlink(here)
        except OSError:
            if not left and not whole:
                found.append((at, part.encode(errors="surrogateescape")))
            elif not os.path.isdir(here):
                found.append((at, part.encode(errors="surrogateescape")))  # it may be created later
                return found
            at = here
            continue
        found.append((at, part.encode(errors="surrogateescape")))
        links += 1
        if links > _MAX_LINKS:
            return found
        at = "/" if target.startswith("/") else at
        left += [part for part in target.split("/") if part][::-1]
    if whole:
        found.append((at, b""))
    return found
