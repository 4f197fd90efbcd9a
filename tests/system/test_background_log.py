"""A reader of the log that does not read stops nothing, and learns how much it has missed."""

import logging
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

from handshaked.system.background_log import WAITING, BackgroundHandler
from handshaked.system.journal import JournalHandler
from handshaked.testing.processes import ending
from tests.patience import PATIENCE

LINES = 3 * WAITING
LOST = re.compile(r"(\d+) log lines were lost because nobody read the log")
PROGRAM = f"""
import logging, sys
from handshaked.system.process import start_logging
start_logging("info", "the test")
for number in range({LINES}):
    logging.info("line %d", number)
print("done", flush=True)
sys.stdin.read()
"""


class BlockingHandler(logging.Handler):
    """Takes one record and then nothing more until ``go_on``."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[str] = []
        self.blocked = threading.Event()
        self.go_on = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.blocked.set()
        assert self.go_on.wait(PATIENCE)
        self.taken.append(self.format(record))


def record(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("test", logging.INFO, "file", 1, text, arguments, None)


def test_records_wait_up_to_a_limit_and_the_others_are_counted() -> None:
    target = BlockingHandler()
    handler = BackgroundHandler(target, waiting=3)
    handler.handle(record("line %d", 0))
    assert target.blocked.wait(PATIENCE)
    changing = ["as it was"]
    for _ in range(10):
        handler.handle(record("%s", changing))
    changing.clear()
    target.go_on.set()
    handler.flush()
    assert target.taken == [
        "line 0",
        "7 log lines were lost because nobody read the log",
        *["['as it was']"] * 3,
    ]


def test_fields_and_tracebacks_are_those_of_the_moment() -> None:
    fields = {"registration": "web"}
    target = BlockingHandler()
    handler = BackgroundHandler(target)
    target.go_on.set()
    seen: list[dict[str, str]] = []
    target.addFilter(lambda one: seen.append(one.fields()) or True)  # type: ignore[attr-defined, func-returns-value]
    one = record("failed")
    one.fields = lambda: dict(fields)
    try:
        raise KeyError("a fault")
    except KeyError:
        one.exc_info = sys.exc_info()
    handler.handle(one)
    fields.clear()
    handler.flush()
    assert seen == [{"registration": "web"}]
    assert target.taken[0].endswith("KeyError: 'a fault'")


def test_process_does_not_wait_for_the_reader_of_its_standard_error() -> None:
    command = [sys.executable, "-c", PROGRAM]
    pipe = subprocess.PIPE
    with ending(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)) as process:
        assert process.stdout.readline() == "done\n"
        _, text = process.communicate(timeout=PATIENCE)
    lost = sum(int(number) for number in LOST.findall(text))
    assert lost > 0
    assert lost + text.count(" INFO the test: line ") == LINES


def test_process_ends_although_nobody_reads_its_standard_error() -> None:
    command = [sys.executable, "-c", PROGRAM]
    pipe = subprocess.PIPE
    with ending(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)) as process:
        assert process.stdout.readline() == "done\n"
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_process_does_not_wait_for_the_journal(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(os.fspath(tmp_path / "socket"))
        journal.settimeout(PATIENCE)
        handler = BackgroundHandler(JournalHandler("the test", tmp_path / "socket"))
        for number in range(LINES):
            handler.handle(record("line %d", number))
        received = lost = 0
        while received + lost < LINES:
            text = journal.recv(65536).decode()
            if found := LOST.search(text):
                lost += int(found[1])
            else:
                received += 1
        assert lost > 0
