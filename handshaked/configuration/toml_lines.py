"""Where a key stands in a TOML document: tomllib does not tell, and people want to know the line."""

import re
import tomllib
from collections.abc import Sequence
from typing import Any

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class TomlError(Exception):
    """A text is not TOML, for a reason that is found in ``line``."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def parsed_document(text: str) -> dict[str, Any]:
    """The document `text`; TomlError if it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _AT_LINE.search(str(error))
        line = int(match[1]) if match and match[1] else text.count("\n") + 1
        raise TomlError(line, _AT_LINE.sub("", str(error))) from None


class KeyLines:
    """The places in the document `text`, which is valid.

    Tables below one name, as ``[registration.web]`` and what belongs to it, are looked at for themselves: there may be
    thousands of them in a file, and to find a line the text is parsed several times.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines = text.split("\n")
        self._blocks: dict[tuple[str, str], tuple[int, int]] = {}
        start, current = 0, None
        for number, line in enumerate([*self._lines, "[_._]"]):
            here = _table_of(line)
            if here is None or here == current:
                continue
            if current is not None:
                self._blocks.setdefault(current, (start, number))
            start, current = number, here

    def line(self, path: tuple[str, ...]) -> int:
        """The line where the key `path` begins; that of what holds it if it is not there."""
        start, end = self._blocks.get((path[0], path[1]) if len(path) > 1 else ("", ""), (0, 0))
        block = self._lines[start:end]
        parsed = _try(block, len(block))
        if parsed is not None and _holds(parsed, path[:2]):
            return start + line_of("\n".join(block), path)
        return line_of(self._text, path)


def _table_of(line: str) -> tuple[str, str] | None:
    """The first two names of the table that `line` begins; None if it begins none with so many."""
    if not line.lstrip().startswith("["):
        return None
    outer = _try([line], 1)
    if not outer:
        return None
    name, inner = next(iter(outer.items()))
    if not isinstance(inner, dict) or not inner:
        return None
    return name, next(iter(inner))


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line of the TOML document `text` where the key `path` begins; that of what holds it if it is not there."""
    lines = text.split("\n")
    while path and not _holds(_parsed(lines, len(lines)), path):
        path = path[:-1]
    if not path:
        return 1
    low, high = 0, len(lines)  # the first `high` lines hold it, the first `low` do not
    while high - low > 1:
        middle = (low + high) // 2
        if _holds(_parsed(lines, middle), path):
            high = middle
        else:
            low = middle
    start = _complete(lines, low)
    while not lines[start].strip() or lines[start].lstrip().startswith("#"):
        start += 1
    return start + 1


def _complete(lines: Sequence[str], count: int) -> int:
    """How many of the first `count` lines are whole entries."""
    while count and _try(lines, count) is None:
        count -= 1
    return count


def _parsed(lines: Sequence[str], count: int) -> dict[str, Any]:
    return _try(lines, _complete(lines, count)) or {}


def _try(lines: Sequence[str], count: int) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines[:count]))
    except tomllib.TOMLDecodeError:
        return None


def _holds(document: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return False
        document = document[key]
    return True
