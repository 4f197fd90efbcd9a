"""The introspection XML is generated from the tables."""

from pathlib import Path

from handshaked.control.bus.interface import introspection


def test_shipped_introspection_matches_the_tables() -> None:
    shipped = Path(__file__).parents[3] / "systemd/org.handshaked.Handshaked1.xml"
    assert shipped.read_text() == introspection()
