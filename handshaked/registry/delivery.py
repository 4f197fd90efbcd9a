"""The delivery of a registration's connections, and its text form in settings and in the store."""

import enum
import ipaddress
from dataclasses import dataclass

from handshaked.errors import RefusedError


class Way(enum.Enum):
    """The ways to deliver a connection."""

    ACCEPT = "accept"
    RELAY = "relay"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A way, and for FORWARD the destination: an IP address and a UDP port."""

    way: Way
    host: str = ""
    port: int = 0

    @property
    def text(self) -> str:
        """The text form, which ``parse_delivery`` parses."""
        if self.way is not Way.FORWARD:
            return str(self.way.value)
        return f"forward [{self.host}]:{self.port}" if ":" in self.host else f"forward {self.host}:{self.port}"


def parse_delivery(text: str) -> Delivery:
    """Parse the text form of a delivery; RefusedError if it is invalid."""
    way, _, target = text.partition(" ")
    try:
        delivery = Delivery(Way(way), *(parse_address(target) if way == Way.FORWARD.value else ()))
    except ValueError:
        raise RefusedError(f"delivery {text!r}: use accept, relay, or forward ADDRESS:PORT") from None
    if delivery.way is not Way.FORWARD and target:
        raise RefusedError(f"delivery {text!r}: only forward takes an address")
    return delivery


def parse_address(text: str) -> tuple[str, int]:
    """Parse ``192.0.2.1:443`` or ``[2001:db8::1]:443`` into IP address and port; ValueError if it is neither."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or (":" in bare) != (bare != host) or not port.isascii() or not port.isdecimal():
        raise ValueError(f"{text!r} is not an IP address with a port")
    address, number = ipaddress.ip_address(bare), int(port)
    if not 0 < number < 65536:
        raise ValueError(f"{number} is not a port number")
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return str(address), number
