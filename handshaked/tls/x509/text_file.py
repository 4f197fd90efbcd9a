"""Text files as editors of other systems write them."""

from handshaked.errors import UnreadableError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def pull_text(content: bytes, name: str) -> bytes:
    """Return the content of a file in ASCII or UTF-8 without a byte order mark; `name` is for error texts.

    UnreadableError if it is UTF-16, with a byte order mark or without: no text begins with a NUL, or has one next.
    """
    if content[:2] in _UTF_16_MARKS or b"\0" in content[:2]:
        raise UnreadableError(f"{name}: is UTF-16 text: convert it with iconv -f UTF-16 -t UTF-8")
    return content.removeprefix(BYTE_ORDER_MARK)
