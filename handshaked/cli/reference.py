"""Writes the files of ``docs/`` and ``systemd/`` that are made from the code; with ``--check`` compares them."""

import sys
from pathlib import Path

from handshaked.cli.manual import reference
from handshaked.control.bus.interface import MANAGER_INTERFACE, REGISTRATION_INTERFACE, Interface, introspection

_CHECKOUT = Path(__file__).parents[2]


def generated() -> dict[Path, str]:
    """The files and what they hold."""
    return {
        _CHECKOUT / "docs/reference-commands.md": reference(),
        _CHECKOUT / "docs/reference-bus.md": bus_reference(),
        _CHECKOUT / "systemd/org.handshaked.Handshaked1.xml": introspection(),
    }


def bus_reference() -> str:
    """The interfaces on the bus, in Markdown."""
    lines = [
        "# The bus",
        "",
        "Written by `scripts/docs` from the tables in `handshaked/control/bus/interface.py`. The name is",
        "`org.handshaked.Handshaked1`; objects are found by `org.freedesktop.DBus.ObjectManager` on",
        "`/org/handshaked/Handshaked1`. Key material does not cross the bus.",
        "",
    ]
    for interface in (MANAGER_INTERFACE, REGISTRATION_INTERFACE):
        lines += [f"## {interface.name}", "", *_rows(interface)]
    return "\n".join(lines).rstrip() + "\n"


def _rows(interface: Interface) -> list[str]:
    rows = ["| member | | polkit |", "|---|---|---|"]
    for method in interface.methods:
        takes = ", ".join(f"{name}: {kind}" for name, kind in method.takes)
        gives = ", ".join(f"{name}: {kind}" for name, kind in method.gives)
        arrow = f" -> {gives}" if gives else ""
        rows.append(f"| `{method.name}({takes}){arrow}` | {method.words} | {method.action or ''} |")
    for signal in interface.signals:
        carries = ", ".join(f"{name}: {kind}" for name, kind in signal.carries)
        rows.append(f"| signal `{signal.name}({carries})` | {signal.words} | |")
    rows += [f"| property `{one.name}: {one.signature}` | {one.words} | |" for one in interface.properties]
    return [*rows, ""]


def main() -> None:
    """Write them, or compare."""
    stale = {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit(f"not up to date, run scripts/docs: {', '.join(map(str, stale))}")
        return
    for path, text in stale.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
