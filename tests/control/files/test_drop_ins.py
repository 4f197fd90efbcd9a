"""Drop-in files define registrations; every error names its file and line."""

import os
import tomllib
from pathlib import Path

import pytest

from handshaked.control.files import drop_ins
from handshaked.control.files.drop_ins import read_drop_ins
from handshaked.registry.credentials import LoadedCredential
from handshaked.registry.store import Source
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


def test_file_defines_a_registration(tmp_path: Path, issued: Issued) -> None:
    path = write(tmp_path, GOOD, issued)
    found = read_drop_ins(tmp_path)
    [(new, where)] = found.wanted.values()
    assert found.problems == []
    assert (new.name, new.owner, new.server_names, new.origin) == ("web", os.geteuid(), ("www.example.com",), str(path))
    assert new.alpns == (b"h3", b"hq-interop")
    assert where == f"{path}:2"


def test_file_defines_several_credentials_and_an_owner(tmp_path: Path, issued: Issued) -> None:
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
        ('["nobody"]', '["no_such_user"]', 7, "unknown user 'no_such_user'"),
        ("alpns = [", "alpn = [", 4, "unknown key 'alpn'"),
        ('key = "{key}"', 'key = "/nowhere"', 6, "/nowhere: No such file"),
        ('key = "{key}"', 'key = "site.key"', 6, "site.key: must be an absolute path"),
        ('key = "{key}"', 'key = "{certificate}"', 5, "everyone can read"),
        ('key = "{key}"', "key = 7", 6, "key must be a printable string"),
        ("allow-users", 'client-auth = "require"\nclient-ca = "/nowhere"\nallow-users', 8, "/nowhere: No such file"),
        ("allow-users", 'client-ca = "/nowhere"\nallow-users', 7, "set client-auth, too"),
        ("allow-users = ", 'credentials = [{{ certificate = "/a", foot = 1 }}] # ', 7, "unknown key 'foot'"),
        ("[registration.web]", "[[registration.web]]", 2, "must be a table: write [registration.web]"),
        ('key = "{key}"\n', 'key = "{key}"\nname = "x"\n', 7, "unknown key 'name'"),
        ("[registration.web]", "[registration.'no spaces']", 2, "use up to 128 letters, digits, and . _ @ -"),
        ("[registration.web]", "[registrations.web]", 2, "only tables [registration.NAME]"),
        ('certificate = "{certificate}"\nkey = "{key}"\n', "", 2, "certificate and key are missing"),
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


def test_bad_registration_does_not_hide_the_others(tmp_path: Path, issued: Issued) -> None:
    write(tmp_path, GOOD + "\n" + GOOD.replace("web", "bad").replace("h3", ""), issued)
    found = read_drop_ins(tmp_path)
    assert list(found.wanted) == ["web"]
    assert [problem.name for problem in found.problems] == ["bad"]


def test_second_definition_of_a_name_is_refused(tmp_path: Path, issued: Issued) -> None:
    first = write(tmp_path, GOOD, issued)
    write(tmp_path, GOOD, issued, "b.toml")
    [problem] = read_drop_ins(tmp_path).problems
    assert f"is already defined at {first}:2" in problem.reason


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_file_that_others_can_write_is_refused(tmp_path: Path, issued: Issued, mode: int) -> None:
    path = write(tmp_path, GOOD, issued)
    path.chmod(mode)
    found = read_drop_ins(tmp_path)
    assert not found.wanted
    assert "chmod go-w" in found.problems[0].reason
    assert found.unread == {str(path)}


@pytest.mark.needs("root")
def test_file_of_another_user_is_refused(tmp_path: Path, issued: Issued) -> None:
    os.chown(write(tmp_path, GOOD, issued), 12345, 12345)
    found = read_drop_ins(tmp_path)
    assert not found.wanted
    assert "owned by uid 12345" in found.problems[0].reason


def test_missing_directory_defines_nothing(tmp_path: Path) -> None:
    found = read_drop_ins(tmp_path / "nowhere")
    assert (found.wanted, found.problems, found.complete) == ({}, [], True)


def test_unreadable_directory_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = read_drop_ins(tmp_path / "file")
    assert not found.complete
    assert "Not a directory" in str(found.problems[0])


def test_binary_file_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"# one\n# two\n\xff\n")
    assert str(read_drop_ins(tmp_path).problems[0]) == f"{tmp_path}/a.toml:3: not valid UTF-8"


def test_many_problems_in_a_file_are_located_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what is parsed: to search the whole file for each place would be quadratic."""
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


def test_unexpected_error_in_one_registration_does_not_hide_the_others(
    tmp_path: Path, issued: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser meets what it was not written for."""
    good = tmp_path / "good.pem"
    good.write_bytes(issued.certificate.read_bytes())
    load = drop_ins.load_for

    def load_or_fail(owner: int, source: Source, contents: tuple[bytes, ...]) -> LoadedCredential:
        if source.certificate == str(issued.certificate):
            raise KeyError(source.certificate)
        return load(owner, source, contents)

    monkeypatch.setattr(drop_ins, "load_for", load_or_fail)
    other = GOOD.replace("registration.web", "registration.other").replace("{certificate}", str(good))
    write(tmp_path, GOOD + other.replace("www.example.com", "*.example.com"), issued)
    found = read_drop_ins(tmp_path)
    assert list(found.wanted) == ["other"]
    [problem] = found.problems
    assert problem.name == "web"
    assert problem.reason.startswith("internal error (KeyError)")
