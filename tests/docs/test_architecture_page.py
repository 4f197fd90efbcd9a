"""The architecture page has a row for every room, and no row for a room that is gone."""

import re

from tests.docs.pages import CHECKOUT


def test_every_room_has_its_row() -> None:
    page = (CHECKOUT / "docs/explanation/architecture.md").read_text()
    table = page[page.index("| room | purpose |") : page.index("Three rules are tested")]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    listed = {room for row in rows for room in re.findall(r"`([\w/]+)`", row.split("|")[1])}
    package = CHECKOUT / "handshaked"
    rooms = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert not (rooms | modules) - listed
    assert not {room for room in listed if not ((package / room).is_dir() or (package / f"{room}.py").exists())}
