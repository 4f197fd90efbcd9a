"""The log: fields to the journal in its native protocol, JSON lines, text."""

import json
import logging
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.system.journal import JournalHandler, JsonFormatter, PriorityFormatter, encode


def decoded(packet: bytes) -> dict[str, str]:
    """Return the fields in `packet`."""
    fields = {}
    while packet:
        line, _, rest = packet.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            packet = rest
        else:
            size = int.from_bytes(rest[:8], "little")
            value, packet = rest[8 : 8 + size], rest[9 + size :]
        fields[name.decode()] = value.decode()
    return fields


def record(level: int = logging.WARNING, message: str = "outcome=failed") -> logging.LogRecord:
    one = logging.LogRecord("handshaked.handshake", level, "file", 1, message, (), None, "func")
    one.fields = lambda: {"registration": "web", "ms": 1.5}
    return one


def test_record_is_sent_to_the_journal_with_its_fields(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        handler = JournalHandler("worker[7]", tmp_path / "socket")
        handler.handle(record())
        handler.close()
        fields = decoded(journal.recv(65536))
    assert fields["MESSAGE"] == "outcome=failed"
    assert fields["PRIORITY"] == "4"
    assert fields["SYSLOG_IDENTIFIER"] == "handshaked"
    assert fields["HANDSHAKED_PROCESS"] == "worker[7]"
    assert fields["HANDSHAKED_REGISTRATION"] == "web"
    assert fields["HANDSHAKED_MS"] == "1.5"


def test_record_goes_to_standard_error_without_a_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = JournalHandler("handshaked", tmp_path / "nowhere")
    handler.handle(record(logging.ERROR, "two\nlines"))
    handler.close()
    assert capsys.readouterr().err == "<3>handshaked: two\nlines\n"


@given(st.dictionaries(st.from_regex(r"[A-Z]{1,8}", fullmatch=True), st.text(max_size=50)))
def test_any_value_survives_encoding(fields: dict[str, str]) -> None:
    assert decoded(encode(fields)) == fields


def test_json_format_is_one_object_per_line() -> None:
    line = JsonFormatter("worker[7]").format(record(message='with "quotes"\nand lines'))
    assert "\n" not in line
    assert json.loads(line) | {"time": 0} == {
        "time": 0, "level": "warning", "process": "worker[7]", "message": 'with "quotes"\nand lines',
        "registration": "web", "ms": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize(("level", "priority"), [(10, 7), (20, 6), (30, 4), (40, 3), (50, 3)])
def test_level_maps_to_syslog_priority(level: int, priority: int) -> None:
    assert PriorityFormatter("%(message)s").format(record(level, "a\nb")) == f"<{priority}>a\n b"
