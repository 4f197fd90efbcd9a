"""Plain values as D-Bus values, with a variant wherever the type of a value is not fixed."""

from typing import Any

from handshaked.control.bus.marshalling import Variant
from handshaked.control.bus.objects import Interfaces, Properties


def pack_interfaces(interfaces: Interfaces) -> dict[str, dict[str, Variant]]:
    """Return the properties of each of `interfaces` as variants."""
    return {name: pack_properties(properties) for name, properties in interfaces.items()}


def pack_properties(properties: Properties) -> dict[str, Variant]:
    """Return `properties` as variants."""
    return {name: Variant(signature, pack_as(signature, value)) for name, (signature, value) in properties.items()}


def pack_as(signature: str, value: Any) -> Any:
    """Return `value` as a value to marshal of the type `signature`."""
    if signature == "aa{sv}":
        return [pack(one) for one in value]
    return pack(value) if signature == "a{sv}" else value


def pack(values: dict[str, Any]) -> dict[str, Variant]:
    """Return `values` as variants, without those that are None: D-Bus has no null."""
    return {name: _variant(value) for name, value in values.items() if value is not None}


def _variant(value: Any) -> Variant:
    if isinstance(value, bool):
        return Variant("b", value)
    if isinstance(value, int | float):
        return Variant("x" if isinstance(value, int) else "d", value)
    if isinstance(value, dict):
        return Variant("a{sv}", pack(value))
    if isinstance(value, list):
        first = value[0] if value else ""
        if isinstance(first, dict):
            return Variant("aa{sv}", [pack(one) for one in value])
        return Variant("as" if isinstance(first, str) else "ax", value)
    return Variant("s", str(value))
