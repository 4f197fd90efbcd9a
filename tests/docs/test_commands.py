"""The commands in the documentation work as they are written, in the order of their page.

A comment above a block says what is special: ``not run:`` with the reason, ``exit status 1 is expected:`` likewise, or
``file:`` with the name under which later blocks of the page find it.
"""

import ast
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from tests.docs.pages import CHECKOUT, FILE, MAY_FAIL, NOT_RUN, PAGES, Block, blocks
from tests.patience import PATIENCE
from tests.plugins.needs import RESOURCES

LANGUAGES = {"sh", "python", "toml", "ini", "c", "text", "{toctree}", "{literalinclude}"}
RUNNABLE = [page for page in PAGES if any(block.runs for block in blocks(page))]
NAMES = ("www.example.com", "*.example.com", "nfs.example.com", "smbd.example.com")
START = {"handshaked ": "control.sock", "handshaked-demux ": "accept.sock"}
"""Sockets at which programs in the background must serve before the next block uses them; readers take that long."""
PAGE_PATIENCE = 5 * PATIENCE
"""Seconds for all commands of a page, which are up to thirty processes."""
PRELUDE = """
set -euo pipefail
trap 'jobs -p | xargs -r kill; wait' EXIT
"""
WAIT = """
import socket, sys, threading, time
from handshaked.control.client import ControlClient
from handshaked.errors import HandshakedError
def serves(path):
    if path.endswith("accept.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            return sock.connect_ex(path) == 0
    try:
        with ControlClient(path) as client:
            status = client.ask("status", {})
    except (OSError, HandshakedError):
        return False
    return status["self_test"] == "ok" and all(worker["answers"] for worker in status["workers"])
deadline = time.monotonic() + float(sys.argv[2])
while time.monotonic() < deadline:
    if serves(sys.argv[1]):
        sys.exit()
    threading.Event().wait(0.02)
sys.exit(f"nobody serves at {sys.argv[1]}")
"""


def name(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


@pytest.mark.timeout(PAGE_PATIENCE + 2 * PATIENCE)
@pytest.mark.needs("bash", "openssl")
@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_commands_work_as_written(page: Path, public_directory: Path, tmp_path: Path, authority: Authority) -> None:
    prepare(tmp_path, authority)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*own_network(), "bash", "-c", script(page, public_directory / "run")],
            cwd=tmp_path,
            env=environment(public_directory),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        status = process.wait(PAGE_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        status = process.wait(PATIENCE)
    assert status == 0, log.read_text()


def own_network() -> list[str]:
    """Return the words that run a command where all ports are free; none if that takes a privilege we do not have."""
    if not RESOURCES["network namespaces"]() or shutil.which("ip") is None:
        return []
    return ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def script(page: Path, runtime_directory: Path) -> str:
    """Return the commands of `page` for bash; a daemon runs beside them if the page does not start its own."""
    lines = [PRELUDE]
    found = blocks(page)
    if not any("handshaked &" in block.text for block in found):
        found = [Block("sh", "handshaked --no-kernel &\n", "", 0), *found]
    for block in found:
        if block.runs:
            lines += [f": '{name(page)}, line {block.line}'", commands(block)]
            lines += [waiting(runtime_directory / socket) for start, socket in START.items() if starts(block, start)]
        elif block.note.startswith(FILE):
            lines.append(f"cat > {block.note.removeprefix(FILE)} <<'END OF FILE'\n{block.text}END OF FILE")
    return "\n".join(lines)


def commands(block: Block) -> str:
    if not block.note.startswith(MAY_FAIL):
        return block.text
    return "".join(f"{line} || [ $? = 1 ]\n" for line in block.text.splitlines())


def starts(block: Block, program: str) -> bool:
    return any(line.startswith(program) and line.endswith("&") for line in block.text.splitlines())


def waiting(socket: Path) -> str:
    return f"{sys.executable} -c '{WAIT}' {socket} {PATIENCE}"


def prepare(directory: Path, authority: Authority) -> None:
    """Make the files that the pages presuppose."""
    issued = authority.issue(*NAMES, file_name="documentation")
    for certificate, key in (("fullchain.pem", "privkey.pem"), ("server.pem", "server.key")):
        (directory / certificate).write_bytes(issued.certificate.read_bytes())
        (directory / key).touch(0o600)
        (directory / key).write_bytes(issued.key.read_bytes())
    for trust in ("ca.pem", "clients-ca.pem"):
        (directory / trust).write_bytes(authority.root.read_bytes())
    (directory / ".venv").symlink_to(sys.prefix)


def environment(directory: Path) -> dict[str, str]:
    """Return the environment of a daemon and its callers of their own."""
    run = str(directory / "run")
    return {
        "PATH": f"{Path(sys.prefix, 'bin')}:{os.environ['PATH']}",
        "HOME": str(directory),
        "STATE_DIRECTORY": str(directory / "state"),
        "CONFIGURATION_DIRECTORY": str(directory / "etc"),
        "RUNTIME_DIRECTORY": run,
        "HANDSHAKED_DIRECTORY": run,
        "HANDSHAKED_DEMUX_DIRECTORY": run,
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        where = f"{name(page)}:{block.line}"
        assert block.language.partition(" ")[0] in LANGUAGES, f"{where}: a block of {block.language!r} is not tested"
        for kind in (NOT_RUN, MAY_FAIL, FILE):
            assert block.note != kind.strip(), f"{where}: {kind} what?"
        assert block.note.startswith((NOT_RUN, MAY_FAIL, FILE)) or not block.note, f"{where}: {block.note}"


def test_there_are_pages_whose_commands_are_run() -> None:
    assert {"README.md", "docs/tutorial/first-handshake.md", "docs/how-to/register-and-renew.md"} <= {
        name(page) for page in RUNNABLE
    }


BLOCKS = [(name(page), block) for page in PAGES for block in blocks(page)]


def of_language(language: str) -> list[object]:
    return [pytest.param(block, id=f"{page}:{block.line}") for page, block in BLOCKS if block.language == language]


@pytest.mark.parametrize("block", of_language("python"))
def test_python_in_the_documentation_names_what_there_is(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


@pytest.mark.parametrize("block", of_language("toml"))
def test_files_in_the_documentation_have_keys_that_there_are(block: Block) -> None:
    reference = "".join(page.read_text() for page in (CHECKOUT / "docs/reference").glob("*.md"))
    tables = tomllib.loads(block.text)
    for table in tables.get("registration", {}).values():
        assert not {key for key in table if f"`{key}`" not in reference}
    for table in tables.keys() - {"registration"}:
        assert not {key for key in tables[table] if f"`{key}`" not in reference}


@pytest.mark.parametrize("block", of_language("c"))
def test_c_in_the_documentation_is_in_the_header(block: Block) -> None:
    header = (CHECKOUT / "netlink/handshaked.h").read_text()
    assert not [line for line in block.text.splitlines() if line not in header]


@pytest.mark.parametrize("page", sorted((CHECKOUT / "docs").glob("*/index.md")), ids=name)
def test_index_pages_link_to_every_page_beside_them(page: Path) -> None:
    links = set(re.findall(r"\]\(([\w-]+\.md)\)", page.read_text()))
    assert links == {one.name for one in page.parent.glob("*.md")} - {"index.md"}


@pytest.mark.parametrize("page", sorted(CHECKOUT.glob("*.md")), ids=name)
def test_links_outside_the_manual_lead_somewhere(page: Path) -> None:
    """Sphinx checks the links inside ``docs/``."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert not [target for target in targets if not (CHECKOUT / target).exists()]


def test_pages_that_the_code_names_exist() -> None:
    files = [
        path
        for directory in ("handshaked", "netlink", "scripts", "systemd", "tests", "benchmarks", "examples")
        for path in (CHECKOUT / directory).rglob("*")
        if path.suffix in (".py", ".c", ".h", ".yaml", ".service", ".socket", ".md", "") and path.is_file()
    ]
    named = {
        (str(path.relative_to(CHECKOUT)), page)
        for path in files
        for page in re.findall(r"\b(?:docs|benchmarks)/[\w/.-]+\.md\b", path.read_text(errors="ignore"))
    }
    assert named
    assert not {(path, page) for path, page in named if not (CHECKOUT / page).exists()}
