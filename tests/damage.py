"""Damage to the files of databases, as a failing disk does it."""

from pathlib import Path

GARBAGE = b"\xa5" * 512


def damage(path: Path) -> None:
    """Overwrite the database at `path`, and its write-ahead log and shared memory if there are any."""
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if file.exists():
            with file.open("r+b") as opened:
                opened.write(GARBAGE * -(-file.stat().st_size // len(GARBAGE)))
