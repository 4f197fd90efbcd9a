"""The D-Bus interfaces as tables. The introspection XML and the reference are generated from them."""

from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from handshaked.errors import HandshakedError
from handshaked.registry.settings import CREDENTIAL, FORCE, REPLACE, SETTINGS, TRUST, Setting

NAME = "org.handshaked.Handshaked1"
PATH = "/org/handshaked/Handshaked1"
MANAGER = "org.handshaked.Handshaked1.Manager"
REGISTRATION = "org.handshaked.Handshaked1.Registration"
REFUSED = "org.handshaked.Handshaked1.Error.Refused"

Parameters = tuple[tuple[str, str], ...]
"""Names and D-Bus signatures."""


class CallError(HandshakedError):
    """A call that D-Bus has an error name for; ``kind`` is its last part."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Method:
    """A method. ``command`` is the control command that it runs; ``action`` is polkit's, if it changes something."""

    name: str
    parameters: Parameters
    results: Parameters
    command: str
    description: str
    action: str | None = None

    @property
    def takes_files(self) -> bool:
        """True if its callers attach files."""
        return any(kind == "ah" for _, kind in self.parameters)

    @property
    def signature(self) -> str:
        """The signature of its parameters."""
        return "".join(signature for _, signature in self.parameters)

    @property
    def reply_signature(self) -> str:
        """The signature of its results."""
        return "".join(signature for _, signature in self.results)


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal. HandshakeFinished is sent only to subscribers, the others are broadcast."""

    name: str
    parameters: Parameters
    description: str


@dataclass(frozen=True, slots=True)
class Property:
    """A read-only property. ``key`` is the key of its value in what the manager shows."""

    name: str
    signature: str
    key: str
    description: str


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface."""

    name: str
    methods: tuple[Method, ...] = ()
    signals: tuple[Signal, ...] = ()
    properties: tuple[Property, ...] = ()

    def method(self, name: str) -> Method | None:
        """Return the method `name`, or None."""
        return next((method for method in self.methods if method.name == name), None)


def _words(settings: tuple[Setting, ...]) -> str:
    return ", ".join(f"{one.name} ({one.type.signature})" for one in settings)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


MANAGER_INTERFACE = Interface(
    MANAGER,
    methods=(
        Method(
            "Register", (("name", "s"), ("options", "a{sv}"), ("files", "ah")),
            (("registration", "o"), ("warnings", "as")), "register",
            f"Register credentials. Options: {_words(SETTINGS)}, {_words((REPLACE, FORCE))}, credentials "
            f"(aa{{ss}}: the paths {', '.join(file.name for file in CREDENTIAL)}). files are the files of these paths, "
            f"then those of {' and '.join(file.name for file in TRUST)}, opened for reading, in the same order.",
            "org.handshaked.register",
        ),
        Method(
            "Unregister", (("name", "s"),), (), "unregister", "Remove a registration.", "org.handshaked.unregister",
        ),
        Method(
            "Explain", (("options", "a{sv}"),), (("answer", "a{sv}"),), "explain",
            "Show which registration a ClientHello would select, and why. Options: server_name, user (s), alpns (as).",
        ),
        Method(
            "Reload", (), (("renewed", "as"), ("errors", "as")), "reload",
            "Reload all certificate, key and drop-in files.", "org.handshaked.reload",
        ),
        Method("Status", (), (("status", "a{sv}"),), "status", "Return the daemon's status."),
        Method(
            "Recent", (("filter", "a{sv}"),), (("handshakes", "aa{sv}"),), "recent",
            "Return the latest handshakes that the caller may see. Filter: outcome, registration, role, server_name "
            "(s), limit (x).",
        ),
        Method(
            "Grant", (("options", "a{sv}"),), (("grant", "x"),), "grant",
            "Allow a user or the members of a group to register names. Options: user or group (s), server_names, "
            "alpns (as), allow_kernel (b).",
            "org.handshaked.grant",
        ),
        Method(
            "Revoke", (("grant", "x"),), (), "revoke",
            "Revoke a grant. Registrations made with it remain.", "org.handshaked.grant",
        ),
        Method("Grants", (), (("grants", "aa{sv}"),), "grants", "Return the caller's grants; for root, all grants."),
        Method(
            "Subscribe", (("filter", "a{sv}"),), (), "subscribe",
            "Send HandshakeFinished to the caller until it disconnects. Filter: as in Recent, without limit.",
        ),
        Method("Unsubscribe", (), (), "unsubscribe", "Stop sending HandshakeFinished to the caller."),
    ),
    signals=(
        Signal(
            "HandshakeFinished", (("handshake", "a{sv}"), ("left_out", "u")),
            "A handshake has ended. left_out is how many the rate limit has dropped since the last signal.",
        ),
        Signal(
            "CertificateExpiring", (("registration", "s"), ("subject", "s"), ("not_after", "d")),
            "A certificate expires soon. Sent when a third of its lifetime is left (at most 14 days), when a fifteenth "
            "is left (at most 3 days), and when it has expired.",
        ),
    ),
    properties=(
        Property("Version", "s", "version", "The daemon's version."),
        Property("Registrations", "x", "registrations", "The number of registrations."),
        Property("SelfTest", "s", "self_test", "'ok', or the reason why the last self-test handshake failed."),
    ),
)  # fmt: skip

REGISTRATION_INTERFACE = Interface(
    REGISTRATION,
    methods=(Method("Unregister", (), (), "unregister", "Remove the registration.", "org.handshaked.unregister"),),
    properties=(
        Property("Name", "s", "name", "The name of the registration."),
        Property("Owner", "x", "owner", "The uid of the user who may change it."),
        *(Property(one.bus_property, one.type.shown_signature, one.name, _sentence(one.help)) for one in SETTINGS),
        Property("Origin", "s", "origin", "The drop-in file that defines it, or empty."),
        Property("Credentials", "aa{sv}", "credentials", "Certificates and the paths of their files; never a key."),
    ),
)


def introspection() -> str:
    """Return the content of ``systemd/org.handshaked.Handshaked1.xml``."""
    lines = [
        '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"',
        '  "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">',
        "<!-- Written by: python -m handshaked.control.bus.interface -->",
        "<node>",
        *_interface(MANAGER_INTERFACE),
        *_interface(REGISTRATION_INTERFACE),
        "</node>",
    ]
    return "\n".join(lines) + "\n"


def node(interfaces: tuple[Interface, ...], children: list[str], standard: str) -> str:
    """Return the introspection XML of one object; `standard` is the XML of the standard interfaces."""
    body = [line for interface in interfaces for line in _interface(interface)]
    body += [f"  <node name={quoteattr(child)}/>" for child in children]
    return "\n".join(["<node>", *body, standard, "</node>"])


def object_path(registration: str) -> str:
    """Return the object path of `registration`: bytes other than letters and digits become ``_`` and two hex digits."""
    escaped = "".join(
        chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"_{byte:02x}" for byte in registration.encode()
    )
    return f"{PATH}/registration/{escaped}"


def _interface(interface: Interface) -> list[str]:
    lines = [f"  <interface name={quoteattr(interface.name)}>"]
    for method in interface.methods:
        directions = [(one, "in") for one in method.parameters] + [(one, "out") for one in method.results]
        lines += [f"    <method name={quoteattr(method.name)}>", _documented(method.description)]
        lines += [f'      <arg name="{name}" type="{kind}" direction="{way}"/>' for (name, kind), way in directions]
        lines.append("    </method>")
    for signal in interface.signals:
        lines += [f"    <signal name={quoteattr(signal.name)}>", _documented(signal.description)]
        lines += [f'      <arg name="{name}" type="{kind}"/>' for name, kind in signal.parameters]
        lines.append("    </signal>")
    for one in interface.properties:
        lines += [
            f'    <property name="{one.name}" type="{one.signature}" access="read">',
            _documented(one.description),
            "    </property>",
        ]
    return [*lines, "  </interface>"]


def _documented(description: str) -> str:
    return f'      <annotation name="org.gtk.GDBus.DocString" value={quoteattr(description)}/>'


if __name__ == "__main__":
    print(introspection(), end="")
