"""PEM files (RFC 7468): the blocks in one, each with the line where it begins.

Text before, between and after blocks is skipped, as RFC 7468 section 2 allows. A damaged or unpaired boundary is an
error: whatever it was to delimit would be skipped with the text.
"""

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from handshaked.errors import UnreadableError
from handshaked.tls.x509.text_file import pull_text

_PROPER = rb"-----(?:BEGIN|END) [^\r\n-]{1,64}-----"
_DAMAGED = rb"^(?![ \t]*" + _PROPER + rb")[ \t]*-{3,}[ \t]*(?:BEGIN|END)\b"
_BOUNDARY = re.compile(rb"-----(BEGIN|END) ([^\r\n-]{1,64})-----|" + _DAMAGED, re.MULTILINE)
_BLANK_LINE = re.compile(rb"\r?\n[ \t]*\r?\n")


@dataclass(frozen=True, slots=True)
class PemBlock:
    """A block: its label, the line (from 1) and the file's name for error texts, and what is between its boundaries."""

    label: str
    line: int
    name: str
    body: bytes = field(repr=False)

    @property
    def place(self) -> str:
        """The position of the block, for error texts."""
        return f"{self.name}: line {self.line}"

    @property
    def text(self) -> bytes:
        """The block with its boundaries, and nothing else of the file."""
        lines = b"\n".join(line.strip() for line in self.body.strip().splitlines())
        label = self.label.encode()
        return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, lines, label)

    def decode(self) -> bytes:
        """Return the block's DER; UnreadableError if it is not base64. Headers (RFC 1421) are left out."""
        body = self.body
        if b":" in body:
            body = _BLANK_LINE.split(body, maxsplit=1)[-1]
        try:
            return binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
        except binascii.Error as error:
            raise UnreadableError(f"{self.place}: the {self.label} block is not base64: {error}") from None


def pull_blocks(content: bytes, name: str) -> list[PemBlock]:
    """Return all PEM blocks of a file, in order; `name` is the file's, for error texts.

    UnreadableError if a boundary is damaged or has no counterpart, or if the file is UTF-16 text.
    """
    return list(_paired(pull_text(content, name), name))


def _paired(content: bytes, name: str) -> Iterator[PemBlock]:
    begin: tuple[bytes, int, int] | None = None  # label, line, where the body begins
    line, counted = 1, 0
    for match in _BOUNDARY.finditer(content):
        line, counted = line + content.count(b"\n", counted, match.start()), match.start()
        kind, label = match[1], match[2]
        if kind is None:
            raise UnreadableError(f"{name}: line {line}: a damaged BEGIN or END line")
        if kind == b"BEGIN":
            if begin is not None:
                raise UnreadableError(f"{name}: line {begin[1]}: this BEGIN line has no END line: is the file damaged?")
            begin = label, line, match.end()
            continue
        if begin is None or begin[0] != label:
            raise UnreadableError(f"{name}: line {line}: this END line has no BEGIN line: is the file damaged?")
        yield PemBlock(label.decode("latin-1"), begin[1], name, content[begin[2] : match.start()])
        begin = None
    if begin is not None:
        raise UnreadableError(f"{name}: line {begin[1]}: this BEGIN line has no END line: is the file cut short?")
