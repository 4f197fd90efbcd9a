"""The files that libhandshaked installs, and the functions that it exports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.c.programs import LIBRARY, NAME, PROGRAMS
from tests.patience import BUILD_PATIENCE, PATIENCE, run_program

pytestmark = pytest.mark.needs("cc", "make", "nm")


def test_family_header_matches_specification() -> None:
    made = run_program(sys.executable, LIBRARY / "generate_header.py").stdout
    assert made.encode() == (LIBRARY / "handshaked_family.h").read_bytes()


@pytest.mark.needs("pkg-config")
def test_pkg_config_finds_installed_library(tmp_path: Path) -> None:
    prefix = tmp_path / "usr"
    make = ["make", "-C", str(LIBRARY), f"BUILD={tmp_path / 'build'}"]
    run_program(*make, timeout=BUILD_PATIENCE)  # with another PREFIX, which install must replace
    subprocess.run([*make, f"PREFIX={prefix}", "install"], check=True, capture_output=True, timeout=BUILD_PATIENCE)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libhandshaked"],
        env={**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")},
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    ).stdout.split()
    program = tmp_path / "relay"
    strict = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["cc", *strict, "-o", program, PROGRAMS / "relay.c", *flags], check=True, timeout=BUILD_PATIENCE)
    nobody = {"LD_LIBRARY_PATH": str(prefix / "lib"), "HANDSHAKED_SOCKET": str(tmp_path / "no")}
    assert run_program(program, NAME, "h3", env=nobody, check=False).returncode == 3  # there is no daemon


def declared() -> set[str]:
    """Return the functions that the header declares."""
    header = re.sub(
        r"/\*.*?\*/|struct \w+ \{.*?^\};", "", (LIBRARY / "handshaked.h").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    return set(re.findall(r"\b(\w+)\(", header))


def test_exported_functions_are_those_with_manual_page(tmp_path: Path) -> None:
    make = ["make", "-C", LIBRARY, f"BUILD={tmp_path / 'build'}", "PREFIX=/usr", f"DESTDIR={tmp_path}", "install"]
    subprocess.run(make, check=True, capture_output=True, timeout=BUILD_PATIENCE)
    pages = {page.stem: page.read_text() for page in (tmp_path / "usr/share/man/man3").iterdir()}
    assert declared() | {"handshaked_relay", "handshaked_quic_client"} == set(pages)
    for name, text in pages.items():
        page = text if not text.startswith(".so ") else pages[text.split("/")[1].split(".")[0]]
        assert name == "handshaked_relay" or re.search(rf'"\w+ \*?{name}\(', page), name
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", "--format=posix", tmp_path / "usr/lib/libhandshaked.so"],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    ).stdout
    exported = {line.split()[0] for line in listed.splitlines() if line.split()[1] == "T"}
    # Names of libquic have no version: programs are linked with the version of another library.
    assert exported == {name if name.startswith("quic_") else f"{name}@@HANDSHAKED_0" for name in declared()}


@pytest.mark.needs("c++")
def test_header_compiles_as_cpp(tmp_path: Path) -> None:
    source = tmp_path / "program.cc"
    source.write_text("#include <handshaked.h>\nint main() { return quic_client_handshake(-1, 0, 0, 0) != -9; }\n")
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    subprocess.run(["c++", *strict, f"-I{LIBRARY}", source], check=True, timeout=PATIENCE)


SECTIONS = [
    *("NAME", "LIBRARY", "SYNOPSIS", "DESCRIPTION", "RETURN VALUE", "ERRORS", "ENVIRONMENT"),
    *("EXAMPLES", "SEE ALSO"),
]


@pytest.mark.parametrize("page", sorted((LIBRARY / "man").iterdir()), ids=lambda page: page.stem)
@pytest.mark.needs("man")
def test_manual_page_has_usual_sections_and_renders_without_warnings(page: Path) -> None:
    sections = re.findall(r"^\.SH (.+)$", page.read_text(), flags=re.MULTILINE)
    assert [section for section in sections if section in SECTIONS] == SECTIONS
    rendered = run_program("man", "--warnings", "--local-file", page)
    assert rendered.stderr == ""
