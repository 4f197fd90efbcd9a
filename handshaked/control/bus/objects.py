"""The D-Bus objects and their properties as plain values: one for the manager, one for each registration."""

from collections.abc import Callable
from typing import Any

from handshaked.control.bus.interface import (
    MANAGER_INTERFACE,
    PATH,
    REGISTRATION_INTERFACE,
    Interface,
    node,
    object_path,
)
from handshaked.control.manager import Manager
from handshaked.control.requests.permissions import may_see
from handshaked.model import Caller
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Snapshot

Typed = tuple[str, Any]
"""A signature and a value of that type."""
Properties = dict[str, Typed]
Interfaces = dict[str, Properties]

_REGISTRATIONS = f"{PATH}/registration"


class BusObjects:
    """The objects for what `manager` holds. `own` returns the properties of the manager's object."""

    def __init__(self, manager: Manager, own: Callable[[], dict[str, Any]]) -> None:
        self._manager = manager
        self._own = own
        self._snapshot = Snapshot()
        self._by_path: dict[str, Registration] = {}

    def begin(self, snapshot: Snapshot) -> None:
        """Start with the registrations of `snapshot`."""
        self._snapshot = snapshot
        self._by_path = {object_path(one.name): one for one in snapshot.registrations if not one.internal}

    def follow(self, snapshot: Snapshot) -> tuple[dict[str, Interfaces], list[str], dict[str, Properties]]:
        """Switch to the registrations of `snapshot`; return the objects that are new, removed and changed."""
        before, self._snapshot = self._snapshot, snapshot
        new, _ = snapshot.changes_since(before)
        removed = [one.name for one in before.registrations if not one.internal and snapshot.named(one.name) is None]
        added: dict[str, Interfaces] = {}
        changed: dict[str, Properties] = {}
        for registration in new:
            if registration.internal:
                continue
            path = object_path(registration.name)
            is_new = path not in self._by_path
            self._by_path[path] = registration
            interfaces = self.interfaces(path)
            if is_new:
                added[path] = interfaces
            else:
                changed[path] = interfaces[REGISTRATION_INTERFACE.name]
        paths = sorted(map(object_path, removed))
        for path in paths:
            del self._by_path[path]
        return added, paths, changed

    def registration(self, path: str, caller: Caller) -> Registration | None:
        """Return the registration at `path`, or None if there is none that `caller` may see."""
        registration = self._by_path.get(path)
        return registration if registration is not None and may_see(caller, registration) else None

    def knows(self, path: str, caller: Caller) -> bool:
        """Return whether there is an object at `path` that `caller` may see."""
        return path in (PATH, _REGISTRATIONS) or self.registration(path, caller) is not None

    def interface(self, path: str) -> Interface:
        """Return the interface of the object at `path`."""
        return MANAGER_INTERFACE if path == PATH else REGISTRATION_INTERFACE

    def interfaces(self, path: str) -> Interfaces:
        """Return the interfaces of the object at `path` with their properties."""
        if path == _REGISTRATIONS:
            return {}
        interface = self.interface(path)
        shown = self._own() if path == PATH else self._manager.shown(self._by_path[path])
        shown = {**shown, **shown.get("policy", {})}
        return {interface.name: {one.name: (one.signature, shown[one.key]) for one in interface.properties}}

    def visible(self, caller: Caller) -> int:
        """Return how many registrations `caller` may see."""
        return sum(may_see(caller, one) for one in self._by_path.values())

    def managed(self, caller: Caller) -> dict[str, Interfaces]:
        """Return all objects that `caller` may see."""
        paths = [path for path in self._by_path if self.registration(path, caller) is not None]
        return {path: self.interfaces(path) for path in [PATH, *paths]}

    def introspect(self, path: str, caller: Caller) -> str:
        """Return the introspection XML of the object at `path`, with the names of its children."""
        if path == PATH:
            return node((MANAGER_INTERFACE,), ["registration"], _STANDARD + _OBJECT_MANAGER)
        if path == _REGISTRATIONS:
            below = [one for one in self._by_path if self.registration(one, caller) is not None]
            return node((), [one.rpartition("/")[2] for one in below], _STANDARD)
        return node((REGISTRATION_INTERFACE,), [], _STANDARD)


_STANDARD = """\
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect"><arg name="xml" type="s" direction="out"/></method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface" type="s" direction="in"/>
      <arg name="property" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface" type="s" direction="in"/>
      <arg name="properties" type="a{sv}" direction="out"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface" type="s"/>
      <arg name="changed" type="a{sv}"/>
      <arg name="invalidated" type="as"/>
    </signal>
  </interface>
"""
_OBJECT_MANAGER = """\
  <interface name="org.freedesktop.DBus.ObjectManager">
    <method name="GetManagedObjects"><arg name="objects" type="a{oa{sa{sv}}}" direction="out"/></method>
    <signal name="InterfacesAdded"><arg name="object" type="o"/><arg name="interfaces" type="a{sa{sv}}"/></signal>
    <signal name="InterfacesRemoved"><arg name="object" type="o"/><arg name="interfaces" type="as"/></signal>
  </interface>
"""
