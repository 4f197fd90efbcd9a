"""Rules that the tests themselves follow: every wait has an end, and one place decides what is skipped."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
INSIDE = TESTS / "kernel" / "inside"
"""Programs of the lab, whose machine stops them after a timeout."""
FILES = [
    path
    for path in sorted([*TESTS.rglob("*.py"), *(TESTS.parent / "handshaked" / "testing").rglob("*.py")])
    if path.name != "patience.py" and not path.is_relative_to(INSIDE)
]
PROGRAMS = {"run", "check_call", "check_output"}
WAITS = {"wait", "join", "communicate", "result", "get"}
SKIPS = {"pytest.skip", "pytest.mark.skip", "pytest.mark.skipif", "pytest.importorskip"}


def calls(path: Path) -> Iterator[tuple[str, ast.Call, ast.AST | None]]:
    """Yield the dotted name, the call and what contains it of each call in the file at `path`."""
    tree = ast.parse(path.read_text())
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func), node, parents.get(node)


def is_enter_context(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "enter_context"


def is_unbounded(name: str, call: ast.Call, parent: ast.AST | None) -> bool:
    """Return whether the call may wait for ever: a coroutine is bounded by the call that it is an argument of."""
    if name == "subprocess.Popen":  # its block waits for the end of the program
        return isinstance(parent, ast.withitem) or is_enter_context(parent)
    words = {keyword.arg for keyword in call.keywords}
    owner, _, method = name.rpartition(".")
    if owner == "subprocess" and method in PROGRAMS:
        return not words & {"timeout", None}
    if name == "asyncio.Event().wait":  # a server, which a signal ends
        return False
    if name == "threading.Thread":  # the interpreter waits for it when it exits
        return "daemon" not in words
    if method == "communicate":
        return "timeout" not in words
    return method in WAITS and not call.args and not call.keywords and not isinstance(parent, ast.Call)


def test_no_test_waits_without_end() -> None:
    """Use tests/patience.py and handshaked/testing/processes.py."""
    found = [
        f"{path.relative_to(TESTS.parent)}:{call.lineno} {name}"
        for path in FILES
        for name, call, parent in calls(path)
        if is_unbounded(name, call, parent)
    ]
    assert not found, "\n".join(found)


def test_skips_go_through_the_needs_of_tests() -> None:
    """Use `needs` or `need`, so that the closing line counts what was missing."""
    found = [
        f"{path.relative_to(TESTS.parent)}:{node.lineno}"
        for path in FILES
        if path.name != "needs.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in SKIPS
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "unbounded"),
    [
        ("process.wait()", True),
        ("process.wait(PATIENCE)", False),
        ("await event.wait()", True),
        ("await soon(event.wait())", False),
        ("subprocess.run(['true'])", True),
        ("subprocess.run(['true'], timeout=1)", False),
        ("process.communicate(b'x')", True),
        ("', '.join(words)", False),
        ("await queue.get()", True),
        ("threading.Thread(target=work)", True),
        ("threading.Thread(target=work, daemon=True)", False),
        ("words.get('key')", False),
        ("with subprocess.Popen(['true']): pass", True),
        ("with ending(subprocess.Popen(['true'])): pass", False),
    ],
)
def test_unbounded_waits_are_found(tmp_path: Path, code: str, unbounded: bool) -> None:
    (tmp_path / "code.py").write_text(f"async def test():\n    {code}\n")
    assert any(is_unbounded(*one) for one in calls(tmp_path / "code.py")) == unbounded
