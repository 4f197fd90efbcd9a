"""The encoding of values in database rows that are neither numbers nor text."""

import json
from collections.abc import Iterable
from dataclasses import fields
from functools import lru_cache
from typing import Any

from handshaked.errors import RefusedError
from handshaked.model import KeyType
from handshaked.registry.registration import Access
from handshaked.registry.settings import Policy


def join(items: Iterable[bytes], width: int) -> bytes:
    """Encode `items` one after another, each prefixed with its length in `width` bytes."""
    return b"".join(len(item).to_bytes(width) + item for item in items)


def split(data: bytes, width: int) -> tuple[bytes, ...]:
    """Decode the items that ``join`` encoded."""
    items = []
    position = 0
    while position < len(data):
        end = position + width + int.from_bytes(data[position : position + width])
        items.append(data[position + width : end])
        position = end
    return tuple(items)


def dump_policy(policy: Policy) -> str:
    """Encode the settings that differ from their defaults: rows stay small, and a new setting needs no new schema."""
    default = Policy()
    return json.dumps(
        {
            setting.name: getattr(policy, setting.name)
            for setting in fields(Policy)
            if getattr(policy, setting.name) != getattr(default, setting.name)
        }
    )


def dump_access(access: Access) -> str:
    """Encode `access` in JSON."""
    return json.dumps([sorted(access.uids), sorted(access.gids), access.kernel])


# Thousands of rows share these values: one object serves all of them.
@lru_cache(maxsize=4096)
def load_access(text: str) -> Access:
    """Decode what ``dump_access`` encoded."""
    uids, gids, kernel = json.loads(text)
    return Access(frozenset(uids), frozenset(gids), kernel)


@lru_cache(maxsize=4096)
def load_policy(text: str) -> Policy:
    """Return the policy that ``dump_policy`` wrote; RefusedError if a newer handshaked wrote it with more settings.

    An unknown setting is not ignored: it may restrict who is accepted.
    """
    stored: dict[str, Any] = dict(json.loads(text))
    unknown = stored.keys() - {setting.name for setting in fields(Policy)}
    if unknown:
        raise RefusedError(
            f"a registration has the unknown setting {min(unknown)}: it was made by a newer handshaked; install that"
            " version again"
        )
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    return Policy(**settings)


@lru_cache(maxsize=4096)
def load_alpns(data: bytes) -> tuple[bytes, ...]:
    """Decode application protocols."""
    return split(data, 1)


load_key_type = lru_cache(maxsize=None)(KeyType)
