"""Log in the background: the daemon must not wait for a reader of its log that does not read."""

import io
import logging
import os
import queue
import threading
import time
from logging.handlers import QueueHandler

WAITING = 4096
FLUSH_SECONDS = 2.0


class UnlockedStream(io.TextIOBase):
    """Writes to `descriptor` without the lock of a buffered stream, which a blocked write would hold.

    The end of the process waits for that of ``sys.stderr``.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Write all of `text`. May block."""
        left = text.encode(errors="backslashreplace")
        while left:
            left = left[os.write(self._descriptor, left) :]
        return len(text)


class BackgroundHandler(QueueHandler):
    """Passes records to `target`, whose ``emit`` may block, in a thread.

    At most `waiting` records wait for it. Others are lost, and counted in a record as soon as `target` takes one again.
    The thread does not hold the lock of `target`, for which ``logging.shutdown`` waits.
    """

    def __init__(self, target: logging.Handler, waiting: int = WAITING) -> None:
        self._records: queue.Queue[logging.LogRecord | threading.Event] = queue.Queue(waiting)
        super().__init__(self._records)
        self.setFormatter(logging.Formatter("%(message)s"))  # what ``target`` formats
        self._target = target
        self._lost = 0
        self._counting = threading.Lock()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a copy of `record` that refers to nothing that may change."""
        prepared: logging.LogRecord = super().prepare(record)
        if hasattr(record, "fields"):
            fields = record.fields()
            prepared.fields = lambda: fields
        return prepared

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue `record`, or count it as lost."""
        try:
            self._records.put_nowait(record)
        except queue.Full:
            with self._counting:
                self._lost += 1

    def flush(self) -> None:
        """Wait until `target` has taken what is queued, for FLUSH_SECONDS at most."""
        taken = threading.Event()
        end = time.monotonic() + FLUSH_SECONDS
        try:
            self._records.put(taken, timeout=FLUSH_SECONDS)
        except queue.Full:
            return
        taken.wait(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while True:
            item = self._records.get()
            if isinstance(item, threading.Event):
                self._report_lost()
                item.set()
            else:
                self._emit(item)
                self._report_lost()

    def _emit(self, record: logging.LogRecord) -> None:
        if self._target.filter(record):
            self._target.emit(record)

    def _report_lost(self) -> None:
        with self._counting:
            lost, self._lost = self._lost, 0
        if lost:
            text = "%d log lines were lost because nobody read the log"
            self._emit(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (lost,), None, "background_log"))
