"""The architecture page has a row for every room, and no row for a room that is gone."""

import ast
import re

from tests.docs.pages import CHECKOUT, blocks


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


def test_classes_in_the_drawings_exist() -> None:
    page = CHECKOUT / "docs/explanation/architecture.md"
    drawings = "".join(block.text for block in blocks(page) if block.language == "text")
    classes = {
        node.name
        for path in (CHECKOUT / "handshaked").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    named = set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", drawings))
    assert len(named) > 8
    assert named <= classes
