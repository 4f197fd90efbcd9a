"""Let chosen system calls of a running daemon fail: the other side of ``faults.c``."""

import enum
import errno
import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.patience import BUILD_PATIENCE, run_program

SOURCE = Path(__file__).with_name("faults.c")
SHORT = -1
FUNCTIONS = (
    "open", "read", "write", "pread", "pwrite", "fsync", "ftruncate", "stat", "unlink", "mkdir", "rename", "lock",
    "unlock", "mmap", "close", "dup", "readlink", "socket", "socketpair", "bind", "listen", "connect", "accept",
    "getsockopt", "setsockopt", "send", "receive", "epoll_create", "epoll_ctl", "epoll_wait", "pipe", "inotify_init",
    "inotify_add", "thread",
)  # fmt: skip
"""As in ``enum function`` of ``faults.c``."""
_STORAGE = (errno.ENOSPC, errno.EIO)
ERRORS: dict[str, tuple[int, ...]] = {
    "open": (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.EINTR),
    "read": (errno.EIO, errno.EINTR, SHORT),
    "write": (*_STORAGE, errno.EINTR, SHORT),
    "pread": (errno.EIO, errno.EINTR, SHORT),
    "pwrite": (*_STORAGE, errno.EINTR, SHORT),
    "fsync": _STORAGE,
    "ftruncate": _STORAGE,
    "stat": (errno.EIO, errno.ENOMEM),
    "unlink": (errno.EIO,),
    "mkdir": _STORAGE,
    "rename": _STORAGE,
    "lock": (errno.EIO, errno.ENOMEM, errno.EINTR),
    "unlock": (errno.ENOLCK,),
    "mmap": (errno.ENOMEM,),
    "close": (errno.EIO, errno.EINTR),
    "dup": (errno.EMFILE,),
    "readlink": (errno.EIO,),
    "socket": (errno.EMFILE, errno.ENOMEM),
    "socketpair": (errno.EMFILE,),
    "bind": (errno.ENOMEM, errno.ENOSPC),
    "listen": (errno.ENOMEM,),
    "connect": (errno.ENOMEM,),
    "accept": (errno.EMFILE, errno.ENOMEM, errno.EINTR),
    "getsockopt": (errno.ENOMEM,),
    "setsockopt": (errno.ENOMEM,),
    "send": (errno.ENOMEM, errno.EINTR, SHORT),
    "receive": (errno.ENOMEM, errno.EINTR),
    "epoll_create": (errno.EMFILE,),
    "epoll_ctl": (errno.ENOMEM, errno.ENOSPC),
    "epoll_wait": (errno.EINTR,),
    "pipe": (errno.EMFILE,),
    "inotify_init": (errno.EMFILE,),
    "inotify_add": (errno.ENOSPC, errno.ENOMEM),
    "thread": (errno.EAGAIN,),
}
"""The errors with which each function may fail, as far as it has to do with storage, memory, descriptors or signals."""


class Process(enum.IntEnum):
    """A process of the daemon, as in ``enum role``."""

    DAEMON = 1
    WORKER = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """Calls `first`, `first` + `step`, .. up to `last` of `function` in `process` fail with `error`."""

    process: Process
    function: str
    error: int
    first: int
    last: int
    step: int = 1

    def __str__(self) -> str:
        name = "SHORT" if self.error == SHORT else errno.errorcode[self.error]
        calls = str(self.first) if self.first == self.last else f"{self.first} to {self.last}, every {self.step}"
        return f"{self.process.name.lower()}: {self.function} {calls}: {name}"


class Injector:
    """The library in `directory`, built if needed, and the file that controls it; a context manager."""

    _HEADER = struct.Struct("=6i")
    _COUNTS = struct.Struct(f"={1 + len(FUNCTIONS)}i")

    def __init__(self, directory: Path) -> None:
        library, control = directory / "faults.so", directory / "faults.control"
        if not library.exists():
            run_program(
                "cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE",
                "-o", library, SOURCE, timeout=BUILD_PATIENCE,
            )  # fmt: skip
            control.write_bytes(bytes(mmap.PAGESIZE))
        with control.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.environment = {"LD_PRELOAD": str(library), "FAULTS_CONTROL": str(control)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._shared.close()

    @contextmanager
    def injecting(self, fault: Fault) -> Iterator[Callable[[], int]]:
        """Inject `fault` in this block; yield a function that returns how many calls have failed."""
        self._arm(fault.process, FUNCTIONS.index(fault.function), fault.error, fault.first, fault.last, fault.step)
        try:
            yield lambda: self._counts()[0]
        finally:
            self._disarm()

    @contextmanager
    def counting(self, process: Process) -> Iterator[dict[str, int]]:
        """Count the calls of `process` in this block, into the dictionary."""
        counts: dict[str, int] = {}
        self._arm(process, 0, 0, 0, 0, 1)
        try:
            yield counts
        finally:
            self._disarm()
            counts.update(zip(FUNCTIONS, self._counts()[1:], strict=True))

    def _arm(self, process: int, *fault: int) -> None:
        self._COUNTS.pack_into(self._shared, self._HEADER.size, *bytes(1 + len(FUNCTIONS)))
        self._HEADER.pack_into(self._shared, 0, 0, *fault)
        self._HEADER.pack_into(self._shared, 0, process, *fault)

    def _disarm(self) -> None:
        self._HEADER.pack_into(self._shared, 0, *bytes(6))

    def _counts(self) -> tuple[int, ...]:
        return self._COUNTS.unpack_from(self._shared, self._HEADER.size)
