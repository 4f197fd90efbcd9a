"""How the connections of a registration are delivered, out of the text that people write and the store keeps."""

import enum
import ipaddress
from dataclasses import dataclass

from handshaked.errors import RefusedError


class Way(enum.Enum):
    """The ways to deliver."""

    ACCEPT = "accept"
    RELAY = "relay"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A way, and for FORWARD where to: an IP address and a UDP port."""

    way: Way
    host: str = ""
    port: int = 0

    @property
    def text(self) -> str:
        """As people write it; ``parse_delivery`` reads it back."""
        if self.way is not Way.FORWARD:
            return str(self.way.value)
        return f"forward [{self.host}]:{self.port}" if ":" in self.host else f"forward {self.host}:{self.port}"


def parse_delivery(text: str) -> Delivery:
    """The delivery that `text` writes; RefusedError says what is wrong with it."""
    way, _, target = text.partition(" ")
    try:
        delivery = Delivery(Way(way), *(parse_address(target) if way == Way.FORWARD.value else ()))
    except ValueError:
        raise RefusedError(f"delivery {text!r}: use accept, relay, or forward ADDRESS:PORT") from None
    if delivery.way is not Way.FORWARD and target:
        raise RefusedError(f"delivery {text!r}: only forward takes an address")
    return delivery


def parse_address(text: str) -> tuple[str, int]:
    """The IP address and the port of ``192.0.2.1:443`` or ``[2001:db8::1]:443``; ValueError if it is neither."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or (":" in bare) != (bare != host) or not port.isascii() or not port.isdecimal():
        raise ValueError(f"{text!r} is no address with a port")
    address, number = ipaddress.ip_address(bare), int(port)
    if not 0 < number < 65536:
        raise ValueError(f"{number} is no port")
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return str(address), number
