"""Drop-in files: what they ask for, and that every error names its file and line."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.configuration.toml_lines import KeyLines, line_of
from handshaked.control.files.drop_ins import read_drop_ins
from handshaked.testing.authority import Issued
from tests.conftest import Issue

GOOD = """\
# a comment
[registration.web]
server-names = ["www.example.com"]
alpns = ["h3", "hq\\\\x2dinterop"]
certificate = "{certificate}"
key = "{key}"
allow-users = ["nobody"]
"""


@pytest.fixture
def issued(issue: Issue) -> Issued:
    return issue("www.example.com")


def write(directory: Path, text: str, issued: Issued, name: str = "a.toml") -> Path:
    path = directory / name
    path.write_text(text.format(certificate=issued.certificate, key=issued.key))
    path.chmod(0o644)
    return path


def test_a_file_asks_for_registrations(tmp_path: Path, issued: Issued) -> None:
    path = write(tmp_path, GOOD, issued)
    found = read_drop_ins(tmp_path)
    [(new, where)] = found.wanted.values()
    assert found.problems == []
    assert (new.name, new.owner, new.server_names, new.origin) == ("web", os.geteuid(), ("www.example.com",), str(path))
    assert new.alpns == (b"h3", b"hq-interop")
    assert where == f"{path}:2"


def test_several_credentials_and_an_owner(tmp_path: Path, issued: Issued) -> None:
    more = GOOD + 'owner = "root"\ncredentials = [{{ certificate = "{certificate}", key = "{key}" }}]\n'
    write(tmp_path, more, issued)
    [(new, _)] = read_drop_ins(tmp_path).wanted.values()
    assert len(new.credentials) == 2
    assert new.owner == 0


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("allow-users", "allow-user", 7, "unknown key 'allow-user'"),
        ('"www.example.com"', '"www..example.com"', 3, "not a host name"),
        ('"www.example.com"', "7", 3, "must be a list of strings"),
        ('["nobody"]', '["no_such_user"]', 7, "no user 'no_such_user'"),
        ("alpns = [", "alpn = [", 4, "unknown key 'alpn'"),
        ('key = "{key}"', 'key = "/nowhere"', 6, "/nowhere: No such file"),
        ('key = "{key}"', 'key = "site.key"', 6, "site.key: an absolute path is wanted"),
        ('key = "{key}"', 'key = "{certificate}"', 5, "everyone can read"),
        ('key = "{key}"', "key = 7", 6, "key must be a printable string"),
        ("allow-users", 'client-auth = "require"\nclient-ca = "/nowhere"\nallow-users', 8, "/nowhere: No such file"),
        ("allow-users", 'client-ca = "/nowhere"\nallow-users', 7, "set client-auth, too"),
        ("allow-users = ", 'credentials = [{{ certificate = "/a", foot = 1 }}] # ', 7, "unknown key 'foot'"),
        ("[registration.web]", "[[registration.web]]", 2, "write a table [registration.web]"),
        ('key = "{key}"\n', 'key = "{key}"\nname = "x"\n', 7, "the name is that of the table"),
        ("[registration.web]", "[registration.'no spaces']", 2, "use up to 128 letters, digits, and . _ @ -"),
        ("[registration.web]", "[registrations.web]", 2, "write tables [registration.NAME]"),
        ('certificate = "{certificate}"\nkey = "{key}"\n', "", 2, "give a certificate and a key"),
        ("alpns = [", "alpns = [,", 4, ""),
        ('["nobody"]', '["nobody"', 8, ""),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, issued: Issued, old: str, new: str, line: int, words: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new), issued)
    found = read_drop_ins(tmp_path)
    [problem] = found.problems
    assert not found.wanted
    assert str(problem).startswith(f"{path}:{line}: "), problem
    assert words in problem.reason


def test_one_bad_registration_does_not_hide_the_others(tmp_path: Path, issued: Issued) -> None:
    write(tmp_path, GOOD + "\n" + GOOD.replace("web", "bad").replace("h3", ""), issued)
    found = read_drop_ins(tmp_path)
    assert list(found.wanted) == ["web"]
    assert [problem.name for problem in found.problems] == ["bad"]


def test_a_name_is_taken_once(tmp_path: Path, issued: Issued) -> None:
    first = write(tmp_path, GOOD, issued)
    write(tmp_path, GOOD, issued, "b.toml")
    [problem] = read_drop_ins(tmp_path).problems
    assert f"is at {first}:2 already" in problem.reason


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_a_file_that_others_may_write_is_not_obeyed(tmp_path: Path, issued: Issued, mode: int) -> None:
    path = write(tmp_path, GOOD, issued)
    path.chmod(mode)
    found = read_drop_ins(tmp_path)
    assert not found.wanted
    assert "chmod go-w" in found.problems[0].reason
    assert found.unread == {str(path)}


@pytest.mark.needs("root")
def test_a_file_of_somebody_else_is_not_obeyed(tmp_path: Path, issued: Issued) -> None:
    os.chown(write(tmp_path, GOOD, issued), 12345, 12345)
    found = read_drop_ins(tmp_path)
    assert not found.wanted
    assert "belongs to uid 12345" in found.problems[0].reason


def test_no_directory_asks_for_nothing(tmp_path: Path) -> None:
    found = read_drop_ins(tmp_path / "nowhere")
    assert (found.wanted, found.problems, found.complete) == ({}, [], True)


def test_a_directory_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = read_drop_ins(tmp_path / "file")
    assert not found.complete
    assert "Not a directory" in str(found.problems[0])


def test_binary_files_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"# one\n# two\n\xff\n")
    assert str(read_drop_ins(tmp_path).problems[0]) == f"{tmp_path}/a.toml:3: not UTF-8"


@pytest.mark.parametrize(
    ("path", "line"),
    [(("a",), 1), (("a", "x"), 2), (("a", "list"), 3), (("a", "b", "c"), 10), (("d", "e"), 12), (("d", "f"), 11)],
)
def test_lines_of_keys(path: tuple[str, ...], line: int) -> None:
    text = "[a]\nx = 1\nlist = [\n  1,\n  # 2\n]\n\n# note\n[a.b]\nc.y = 2\n[d]\ne = 3\n"
    assert line_of(text, path) == line


@given(st.lists(st.text("abc =[]{}\"'#\n.", max_size=12), max_size=8))
def test_any_text_gives_a_line(lines: list[str]) -> None:
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
def test_the_places_in_a_part_are_those_in_the_whole(keys: str) -> None:
    path = ("registration", *keys.split())
    assert KeyLines(TABLES).line(path) == line_of(TABLES, path)


def test_many_registrations_in_a_file_took_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place was looked for in the whole file, which was parsed ten times for that. What is parsed is counted."""
    parsed = 0
    loads = tomllib.loads

    def counted(text: str) -> dict:
        nonlocal parsed
        parsed += len(text)
        return loads(text)

    text = "".join(f'[registration.n{number}]\nalpns = [""]\n' for number in range(500))
    (tmp_path / "many.toml").write_text(text)
    (tmp_path / "many.toml").chmod(0o644)
    monkeypatch.setattr(tomllib, "loads", counted)
    assert len(read_drop_ins(tmp_path).problems) == 500
    assert parsed < 40 * len(text)
