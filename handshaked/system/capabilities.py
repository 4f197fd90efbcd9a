"""Capabilities of this process (capabilities(7)): which it has, and error texts that name a missing one."""

import enum
from pathlib import Path

from handshaked.errors import Status


class Capability(enum.IntEnum):
    """The capabilities that the programs use, by number."""

    DAC_READ_SEARCH = 2
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    SYS_ADMIN = 21


def has(capability: Capability) -> bool:
    """Return whether `capability` is effective."""
    return bool(_effective() >> capability & 1)


def explain(error: OSError, capability: Capability) -> str:
    """Return the text of `error`, with `capability` if the call was refused because this process lacks it."""
    refused = error.errno in (Status.REFUSED, Status.NOT_PERMITTED)
    hint = f"; CAP_{capability.name} is missing" if refused and not has(capability) else ""
    return f"{error.strerror or error}{hint}"


def _effective() -> int:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
