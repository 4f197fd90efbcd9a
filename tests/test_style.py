"""Rules of CONTRIBUTING.md about docstrings and broad exception handlers that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for place in ("handshaked", "tests", "benchmarks", "examples") for path in (ROOT / place).rglob("*.py")]
QUESTION = re.compile(r"(What|Whatever|Whether|Who|Whoever|Which|How|Why)\b")
BROAD = re.compile(r"except (Base)?Exception\b[^#]*$")


def headless(code: str) -> Iterator[str]:
    """Yield the docstrings in `code`, those of attributes too, that begin with a question word instead of a noun."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str) and QUESTION.match(text):
                yield text


def unexplained(code: str) -> Iterator[str]:
    """Yield the lines in `code` that catch every exception and have no comment with the reason."""
    yield from filter(BROAD.search, code.splitlines())


def test_docstrings_begin_with_a_verb_or_noun() -> None:
    found = [f"{path.relative_to(ROOT)}: {text}" for path in SOURCES for text in headless(path.read_text())]
    assert found == []


def test_broad_exception_handlers_give_their_reason() -> None:
    places = (ROOT / "handshaked").rglob("*.py")
    found = [f"{path.relative_to(ROOT)}: {line}" for path in places for line in unexplained(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ('"""What to do."""', 1),
        ('def f():\n    """Whether it is so."""', 1),
        ('limit = 1\n"""How much there may be."""', 1),
        ('"""However it ends, nothing leaks."""', 0),
        ('text = "What to do"', 0),
    ],
)
def test_headless_docstring_is_found(code: str, count: int) -> None:
    assert len(list(headless(code))) == count


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("except Exception:", 1),
        ("except BaseException as error:", 1),
        ("except Exception:  # raised again", 0),
        ("except ExceptionGroup:", 0),
        ("except OSError:", 0),
    ],
)
def test_unexplained_handler_is_found(line: str, count: int) -> None:
    assert len(list(unexplained(f"try:\n    pass\n{line}\n    pass\n"))) == count
