"""The bus's view of the manager: its interfaces as tables, from which the introspection XML is written."""

from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from handshaked.registry.settings import CREDENTIAL, FORCE, REPLACE, SETTINGS, TRUST, Setting

NAME = "org.handshaked.Handshaked1"
PATH = "/org/handshaked/Handshaked1"
MANAGER = "org.handshaked.Handshaked1.Manager"
REGISTRATION = "org.handshaked.Handshaked1.Registration"
REFUSED = "org.handshaked.Handshaked1.Error.Refused"

Arguments = tuple[tuple[str, str], ...]
"""Names and signatures."""


@dataclass(frozen=True, slots=True)
class Method:
    """`command` is what the manager is asked to do; `action` is polkit's, if it changes something."""

    name: str
    takes: Arguments
    gives: Arguments
    command: str
    words: str
    action: str | None = None

    @property
    def signature(self) -> str:
        """What its arguments must be."""
        return "".join(signature for _, signature in self.takes)

    @property
    def reply_signature(self) -> str:
        """What it returns."""
        return "".join(signature for _, signature in self.gives)


@dataclass(frozen=True, slots=True)
class Signal:
    """HandshakeFinished is sent to those that have subscribed, and to nobody else."""

    name: str
    carries: Arguments
    words: str


@dataclass(frozen=True, slots=True)
class Property:
    """`key` is where its value stands in what the manager shows."""

    name: str
    signature: str
    key: str
    words: str


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface."""

    name: str
    methods: tuple[Method, ...] = ()
    signals: tuple[Signal, ...] = ()
    properties: tuple[Property, ...] = ()

    def method(self, name: str) -> Method | None:
        """Its method `name`."""
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
            f"Registers credentials. Options: {_words(SETTINGS)}, {_words((REPLACE, FORCE))}, and credentials "
            f"(aa{{ss}}: the paths {', '.join(file.name for file in CREDENTIAL)}). files are the files of these paths, "
            f"then those of {' and '.join(file.name for file in TRUST)}, opened for reading, in the same order.",
            "org.handshaked.register",
        ),
        Method(
            "Unregister", (("name", "s"),), (), "unregister", "Removes a registration.", "org.handshaked.unregister",
        ),
        Method(
            "Explain", (("options", "a{sv}"),), (("answer", "a{sv}"),), "explain",
            "What a ClientHello would get, and why. Options: server_name, user (s), alpns (as).",
        ),
        Method(
            "Reload", (), (("renewed", "as"), ("errors", "as")), "reload",
            "Looks at all files again.", "org.handshaked.reload",
        ),
        Method("Status", (), (("status", "a{sv}"),), "status", "How the daemon does."),
        Method(
            "Recent", (("filter", "a{sv}"),), (("handshakes", "aa{sv}"),), "recent",
            "The latest handshakes that the caller may see. Filter: outcome, registration, role, server_name (s), "
            "limit (x).",
        ),
        Method(
            "Grant", (("options", "a{sv}"),), (("grant", "x"),), "grant",
            "Lets a user register certain names. Options: user, group (s), server_names, alpns (as), allow_kernel (b).",
            "org.handshaked.grant",
        ),
        Method("Revoke", (("grant", "x"),), (), "revoke", "Takes a grant back.", "org.handshaked.grant"),
        Method("Grants", (), (("grants", "aa{sv}"),), "grants", "The grants that the caller holds; for root, all."),
        Method(
            "Subscribe", (("filter", "a{sv}"),), (), "subscribe",
            "Has HandshakeFinished sent to the caller, until it leaves the bus. Filter as in Recent.",
        ),
        Method("Unsubscribe", (), (), "unsubscribe", "Ends that."),
    ),
    signals=(
        Signal(
            "HandshakeFinished", (("handshake", "a{sv}"), ("left_out", "u")),
            "A handshake has ended. left_out: how many were not told of since the last signal, because there were "
            "too many.",
        ),
        Signal(
            "CertificateExpiring", (("registration", "s"), ("subject", "s"), ("not_after", "d")),
            "A certificate ends soon: sent 14 days, 3 days and at once when it has ended.",
        ),
    ),
    properties=(
        Property("Version", "s", "version", "The daemon's version."),
        Property("Registrations", "x", "registrations", "How many there are."),
        Property("SelfTest", "s", "self_test", "'ok', or why the last handshake with itself failed."),
    ),
)  # fmt: skip

REGISTRATION_INTERFACE = Interface(
    REGISTRATION,
    methods=(Method("Unregister", (), (), "unregister", "Removes it.", "org.handshaked.unregister"),),
    properties=(
        Property("Name", "s", "name", "What it is called."),
        Property("Owner", "x", "owner", "The uid that may change it."),
        *(Property(one.bus_property, one.type.shown_signature, one.name, _sentence(one.help)) for one in SETTINGS),
        Property("Origin", "s", "origin", "The drop-in file it comes from, or empty."),
        Property("Credentials", "aa{sv}", "credentials", "Certificates and the paths they came from; never a key."),
    ),
)


def introspection() -> str:
    """The XML that ``systemd/org.handshaked.Handshaked1.xml`` holds."""
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
    """What Introspect answers for one object."""
    body = [line for interface in interfaces for line in _interface(interface)]
    body += [f"  <node name={quoteattr(child)}/>" for child in children]
    return "\n".join(["<node>", *body, standard, "</node>"])


def object_path(registration: str) -> str:
    """The path of the registration of that name: all but letters and digits as ``_`` and two hexadecimal digits."""
    escaped = "".join(
        chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"_{byte:02x}" for byte in registration.encode()
    )
    return f"{PATH}/registration/{escaped}"


def _interface(interface: Interface) -> list[str]:
    lines = [f"  <interface name={quoteattr(interface.name)}>"]
    for method in interface.methods:
        directions = [(one, "in") for one in method.takes] + [(one, "out") for one in method.gives]
        lines += [f"    <method name={quoteattr(method.name)}>", _documented(method.words)]
        lines += [f'      <arg name="{name}" type="{kind}" direction="{way}"/>' for (name, kind), way in directions]
        lines.append("    </method>")
    for signal in interface.signals:
        lines += [f"    <signal name={quoteattr(signal.name)}>", _documented(signal.words)]
        lines += [f'      <arg name="{name}" type="{kind}"/>' for name, kind in signal.carries]
        lines.append("    </signal>")
    for one in interface.properties:
        lines += [
            f'    <property name="{one.name}" type="{one.signature}" access="read">',
            _documented(one.words),
            "    </property>",
        ]
    return [*lines, "  </interface>"]


def _documented(words: str) -> str:
    return f'      <annotation name="org.gtk.GDBus.DocString" value={quoteattr(words)}/>'


if __name__ == "__main__":
    print(introspection(), end="")
