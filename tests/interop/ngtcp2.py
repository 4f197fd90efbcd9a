"""Parse the output of ngtcp2's programs."""

import re

from handshaked.datapath.quic_options import ConnectionClose


def close_of(output: str) -> ConnectionClose | None:
    """Return the peer's CONNECTION_CLOSE."""
    found = re.search(r"frm rx .* CONNECTION_CLOSE\(0x1c\) error_code=\w+\((0x[0-9a-f]+)\).* reason=\[(.*)\]", output)
    return None if found is None else ConnectionClose(int(found[1], 16), found[2])


def error_code_of(output: str) -> int | None:
    """Return the error code of the peer's CONNECTION_CLOSE."""
    close = close_of(output)
    return None if close is None else close.error_code


def handshake_messages(output: str) -> bytes:
    """Return the CRYPTO data received at the handshake level."""
    received = bytearray()
    for part in output.split("Ordered CRYPTO data in Handshake crypto level\n")[1:]:
        for line in part.splitlines():
            dump = re.fullmatch(r"[0-9a-f]{8}  ((?:[0-9a-f]{2} {1,2}){1,16}) *\|.*\|", line)
            if dump is None:
                break
            received += bytes.fromhex(dump[1])
    return bytes(received)
