"""TOML documents, and the line numbers of their keys for error messages, which tomllib does not provide."""

import codecs
import re
import tomllib
from collections.abc import Sequence
from typing import Any

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class TomlError(Exception):
    """A text is not valid TOML; the error is in ``line``."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def decoded(content: bytes) -> str:
    """Return the text of a file, without a byte order mark; TomlError if it is not UTF-8."""
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in content[:2]:
        raise TomlError(1, "is UTF-16 text: convert it with iconv -f UTF-16 -t UTF-8")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise TomlError(content.count(b"\n", 0, error.start) + 1, "not valid UTF-8") from None


def parsed_document(text: str) -> dict[str, Any]:
    """Return the document in `text`; TomlError if it is not valid TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _AT_LINE.search(str(error))
        line = int(match[1]) if match and match[1] else text.count("\n") + 1
        raise TomlError(line, _AT_LINE.sub("", str(error))) from None


class KeyLines:
    """The lines of the keys in `text`, a valid document.

    The text is parsed several times to find a line. Because a file may have thousands of tables, blocks such as
    ``[registration.web]`` with its subtables are searched on their own.
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
        """Return the line where the key `path` begins, or if it does not exist, that of the table it would be in."""
        start, end = self._blocks.get((path[0], path[1]) if len(path) > 1 else ("", ""), (0, 0))
        block = self._lines[start:end]
        parsed = _try(block, len(block))
        if parsed is not None and _contains(parsed, path[:2]):
            return start + line_of("\n".join(block), path)
        return line_of(self._text, path)


def _table_of(line: str) -> tuple[str, str] | None:
    """Return the first two names of the table whose header is `line`; None if it is no header with two names."""
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
    """Return the line of `text` where the key `path` begins, or if it does not exist, that of its table."""
    lines = text.split("\n")
    while path and not _contains(_parsed(lines, len(lines)), path):
        path = path[:-1]
    if not path:
        return 1
    low, high = 0, len(lines)  # the first `high` lines contain it, the first `low` do not
    while high - low > 1:
        middle = (low + high) // 2
        if _contains(_parsed(lines, middle), path):
            high = middle
        else:
            low = middle
    start = _complete(lines, low)
    while not lines[start].strip() or lines[start].lstrip().startswith("#"):
        start += 1
    return start + 1


def _complete(lines: Sequence[str], count: int) -> int:
    """Return how many of the first `count` lines form complete entries."""
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


def _contains(document: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return False
        document = document[key]
    return True
