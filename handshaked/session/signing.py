"""Answer SignatureNeeded: with the credential's signer, at once."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from handshaked.events import SignatureNeeded

Happened = TypeVar("Happened")


def signed(events: Sequence[Happened], proceed: Callable[[bytes], Sequence[Happened]]) -> list[Happened]:
    """Return `events`, with those that `proceed` returns for a signature in place of SignatureNeeded.

    HandshakeError if the credential cannot sign.
    """
    if not events or not isinstance(needed := events[-1], SignatureNeeded):
        return list(events)
    signature = needed.signer.sign(needed.scheme, needed.transcript_hash, by_server=needed.by_server)
    return [*events[:-1], *proceed(signature)]
