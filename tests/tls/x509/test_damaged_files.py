"""Damaged files and passphrases cause our own errors and no other exception (``tests/fuzz/files.py``)."""

import random

import pytest

from handshaked.errors import HandshakedError
from tests.certificates import pem_block
from tests.fuzz.files import Kind, kinds, run

COUNT = 4000


def test_intact_files_are_accepted() -> None:
    """Otherwise, damage would not be what is refused."""
    assert [kind.read.__name__ for kind in kinds() if not any(is_accepted(kind, seed) for seed in range(40))] == []


def is_accepted(kind: Kind, seed: int) -> bool:
    """Return whether a sample is accepted; it is not if the seed chooses another purpose, key or passphrase."""
    sample = kind.samples[0]
    try:
        kind.read(pem_block(kind.label, sample) if kind.label else sample, random.Random(seed))
    except HandshakedError:
        return False
    return True


@pytest.mark.fuzz
def test_damaged_files_cause_our_errors_only() -> None:
    endings = run(COUNT, 0, kinds())
    assert endings.total() == COUNT
    for what in ("certificate: PeerError", "certificate: accepted", "lists: PeerError", "key: UnreadableError"):
        assert endings[f"use_{what}"] > 0
