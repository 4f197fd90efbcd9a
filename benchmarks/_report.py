"""One JSON object a line: what was measured, and beside it the peer of the same run."""

import json


def report(name: str, value: float, unit: str, peer: str | None = None, peer_value: float | None = None) -> None:
    """Print a figure, with its peer's and the ratio to it if there is one: a peer may have taken nothing."""
    line: dict[str, object] = {"name": name, "value": round(value, 3), "unit": unit}
    if peer is not None and peer_value is not None:
        ratio = round(value / peer_value, 3) if peer_value else None
        line |= {"peer": peer, "peer_value": round(peer_value, 3), "ratio": ratio}
    print(json.dumps(line), flush=True)
