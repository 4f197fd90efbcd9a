"""Find the lines of keys in TOML documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.configuration.toml_lines import KeyLines, line_of


@pytest.mark.parametrize(
    ("path", "line"),
    [(("a",), 1), (("a", "x"), 2), (("a", "list"), 3), (("a", "b", "c"), 10), (("d", "e"), 12), (("d", "f"), 11)],
)
def test_line_of_a_key(path: tuple[str, ...], line: int) -> None:
    text = "[a]\nx = 1\nlist = [\n  1,\n  # 2\n]\n\n# note\n[a.b]\nc.y = 2\n[d]\ne = 3\n"
    assert line_of(text, path) == line


@given(st.lists(st.text("abc =[]{}\"'#\n.", max_size=12), max_size=8))
def test_any_text_has_a_line(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert 1 <= line_of(text, ("a", "b")) <= text.count("\n") + 1


TABLES = """\
[registration.one]
alpns = [
["h3"],
]
[[registration.one.credentials]]
key = "k"

[registration]
two.alpns = ["h3"]
[registration.'three']
text = '''
[registration.four]
alpns = 1
'''
alpns = 2
[registration.four]
alpns = 3
"""


@pytest.mark.parametrize(
    "keys", ["one", "one alpns", "one credentials", "two", "two alpns", "three alpns", "four alpns"]
)
def test_lines_found_in_a_block_are_those_of_the_document(keys: str) -> None:
    path = ("registration", *keys.split())
    assert KeyLines(TABLES).line(path) == line_of(TABLES, path)
