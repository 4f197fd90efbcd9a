"""Method calls for RunningBus.call_as, and the names they need."""

import pwd
from typing import Any

from handshaked.testing.authority import Issued

# dbus-daemon only serves users that exist.
USER, OTHER = pwd.getpwnam("bin").pw_uid, pwd.getpwnam("nobody").pw_uid
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
REFUSED = "org.handshaked.Handshaked1.Error.Refused"
PROPERTIES = "org.freedesktop.DBus.Properties"
MANAGER = "org.handshaked.Handshaked1.Manager"
REGISTRATION = "org.handshaked.Handshaked1.Registration"


def register(name: str, issued: Issued, **options: Any) -> dict[str, Any]:
    """Return the step that registers `issued`."""
    credentials = [{"certificate": str(issued.certificate), "key": str(issued.key)}]
    return {
        "member": "Register",
        "kinds": ["s", "a{sv}", "ah"],
        "body": [name, {"alpns": ["h3"], "credentials": credentials, **options}, [0, 1]],
        "files": [str(issued.certificate), str(issued.key)],
    }


def step(member: str, *arguments: Any, interface: str = MANAGER, **more: Any) -> dict[str, Any]:
    """Return a step with arguments of plain types."""
    kinds = [{str: "s", int: "x", dict: "a{sv}"}[type(argument)] for argument in arguments]
    return {"member": member, "kinds": kinds, "body": list(arguments), "interface": interface, **more}
