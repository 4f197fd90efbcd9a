"""Manual pages: sections, completeness, and examples that hold."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from handshaked.cli import COMMANDS, command_function
from handshaked.cli import manual_text as text
from handshaked.cli.manual import page
from handshaked.cli.parser import PAGES, PROGRAM_PAGES, command_line
from handshaked.configuration.handshaked_toml import TABLES, parse_configuration
from handshaked.control.files.drop_ins import read_drop_ins
from handshaked.registry.settings import CREDENTIAL, SETTINGS
from tests.conftest import Issue
from tests.patience import run_program

SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXAMPLES", "SEE ALSO"]
ORDER = [*SECTIONS[:3], "OPTIONS", "EXIT STATUS", "ENVIRONMENT", *SECTIONS[3:]]


def sections(name: str) -> list[str]:
    """Return the titles of the sections of the page `name`."""
    return [line.removeprefix(".SH ") for line in page(name).splitlines() if line.startswith(".SH ")]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_the_usual_sections_in_order(name: str) -> None:
    usual = ORDER if name in PROGRAM_PAGES[1:] else SECTIONS
    order = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
        "SEE ALSO",
    ]
    found = [title for title in sections(name) if title in order]
    assert set(usual) <= set(found)
    assert found == [title for title in order if title in found]


def test_every_command_has_a_function_and_every_function_a_command() -> None:
    assert set(command_line().commands) == set(COMMANDS)
    assert all(callable(command_function(command)) for command in COMMANDS)


def test_command_imports_only_its_own_module() -> None:
    script = "import sys; from handshaked.cli import command_function; command_function('list'); print(*sys.modules)"
    loaded = run_program(sys.executable, "-c", script).stdout.split()
    modules = {name.partition(".")[0] for name in COMMANDS.values()}
    assert {name for name in modules if f"handshaked.cli.{name}" in loaded} == {"registrations"}
    assert "asyncio" not in loaded


def test_the_page_of_the_settings_names_all_of_them() -> None:
    lines = page("handshaked.toml.5").replace("\\-", "-").splitlines()
    for table, content in TABLES.items():
        assert f".SH [{table}]" in lines
        for setting in content.settings:
            assert f".B {setting.key} = {setting.kind}" in lines


def test_the_example_of_the_settings_is_valid_and_complete() -> None:
    parse_configuration(text.HANDSHAKED_TOML, "the example")
    commented_out = {("log", "keylog")}
    omitted = {("server", key) for key in ("peers", "require_revocation_lists", "revocation_list_grace")}  # as [client]
    given = {(table, key) for table, keys in tomllib.loads(text.HANDSHAKED_TOML).items() for key in keys}
    known = {(table, setting.key) for table, content in TABLES.items() for setting in content.settings}
    assert given == known - commented_out - omitted


def test_the_page_of_registrations_names_all_settings() -> None:
    keys = set(re.findall(r"^\.B ([a-z-]+) = ", page("registrations.d.5").replace("\\-", "-"), re.MULTILINE))
    assert keys == {row.key for row in (*SETTINGS, *CREDENTIAL)} | {"force", "credentials", "owner"}


def test_the_example_of_registrations_loads(tmp_path: Path, issue: Issue) -> None:
    names = {"fullchain": ("www.example.com", "*.cdn.example.com"), "files-": ("files.example.com",)}
    example = text.REGISTRATIONS
    for part, names_of in names.items():
        issued = issue(*names_of)
        example = re.sub(rf'"/[^"]*{part}[^"]*\.pem"', f'"{issued.certificate}"', example)
        example = re.sub(rf'"/[^"]*{part.replace("fullchain", "privkey")}[^"]*\.(key|pem)"', f'"{issued.key}"', example)
    example = example.replace("/etc/handshaked/clients-ca.pem", str(issue("www.example.com").certificate))
    (tmp_path / "example.toml").write_text(example)
    found = read_drop_ins(tmp_path)
    assert (found.problems, sorted(found.wanted)) == ([], ["smb", "web"])


@pytest.mark.parametrize("name", PAGES)
def test_manual_page_has_the_description_of_every_command(name: str) -> None:
    printed = page(name)
    parser = command_line()
    if name == "handshakectl.1":
        for sub in parser.commands.values():
            assert (sub.description or "").replace("-", "\\-") in printed


@pytest.mark.needs("man")
@pytest.mark.parametrize("name", PAGES)
def test_man_formats_manual_pages_without_warning(name: str) -> None:
    process = run_program("man", "--warnings", "-l", "-", input=page(name), env={"LC_ALL": "C.UTF-8"})
    assert process.stderr == ""
    assert "handshaked" in process.stdout
    assert "%(" not in process.stdout  # a default that --help would fill in
