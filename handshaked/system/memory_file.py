"""Files in memory, by which a process passes another one more than fits into a packet."""

import os
from io import FileIO


def memory_file(content: bytes) -> FileIO:
    """Return a file with `content` that no directory names; it ends with its last descriptor."""
    file = FileIO(os.memfd_create("handshaked", os.MFD_CLOEXEC), "r+")
    file.write(content)
    file.seek(0)
    return file


def content_of(descriptor: int) -> bytes:
    """Return the content of the memory file `descriptor`, whose position may be shared with another process."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
