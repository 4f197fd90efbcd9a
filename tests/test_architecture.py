"""The direction of dependencies: which room may import which, and what does no I/O and reads no clock.

A room is a directory below ``handshaked``, or a module in its root.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.patience import run_program

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "handshaked"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}

MAX_ROOT_MODULES = 8
BASIS = {"errors", "model", "events"}
PURE_REGISTRY = {
    "registry.names",
    "registry.registration",
    "registry.snapshot",
    "registry.peer_rules",
    "registry.delivery",
    "registry.settings",
    "registry.setting_types",
}
"""Modules of the registry that do no I/O."""
SANS_IO = {*BASIS, "session", "tls", "quic", *PURE_REGISTRY}
"""Bytes and the time go in, events come out."""
EVERYTHING = {"everything"}
"""The composition: the only rooms that may name everything."""

ROOMS: dict[str, set[str]] = {
    # The shared vocabulary.
    "errors": set(),
    "model": {"errors"},
    "events": {"errors", "model"},
    # The core.
    "tls": {*BASIS, "tls.x509"},
    "tls.x509": {"errors", "model"},
    "quic": BASIS,
    "session": {*BASIS, *PURE_REGISTRY, "tls", "tls.x509"},
    # Bytes on sockets, and the operating system.
    "wire": BASIS,
    "system": {"errors"},
    "callers": {"errors", "model", "system", "wire"},
    # Registrations.
    "registry": {*BASIS, "tls", "tls.x509"},
    "configuration": {"errors", "registry", "system"},
    # The main path.
    "datapath": {*BASIS, "session", "tls", "wire"},
    "handshakes": {
        *BASIS, "configuration", "datapath", "quic", "registry", "session", "system", "tls", "tls.x509",
    },
    "upcall": {*BASIS, "callers", "configuration", "datapath", "handshakes", "system", "wire"},
    # The client library.
    "shim": {*BASIS, "system", "wire"},
    "shim.aioquic": {*BASIS, "shim", "wire"},
    # Administration.
    "reporting": {*BASIS, "callers", "registry", "system", "wire"},
    "workers": {*BASIS, "callers", "registry", "reporting", "shim", "system", "wire"},
    "control.requests": {*BASIS, "callers", "registry", "system", "tls.x509", "wire"},
    "control.files": {*BASIS, "callers", "configuration", "control.requests", "registry", "system", "wire"},
    "control": {
        *BASIS, "callers", "control.files", "control.requests", "registry", "reporting", "system", "wire", "workers",
    },
    "control.bus": {*BASIS, "callers", "control", "control.requests", "registry", "system", "wire"},
    # One UDP port for many applications: a daemon of its own, which parses no file with a key.
    "demux": {*BASIS, "callers", "quic", "registry", "system", "tls", "wire"},
    # The composition, and what is shipped for demonstrations and tests.
    "daemon": EVERYTHING,
    "worker": EVERYTHING,
    "cli": EVERYTHING,
    "testing": EVERYTHING,
}  # fmt: skip
"""Allowed imports of each room besides itself. Nested rooms have their own rows; single modules may be named, too."""

PURE_MODULES = {module: {*BASIS, *PURE_REGISTRY} for module in PURE_REGISTRY}
PURE_MODULES["registry.peer_rules"] |= {"tls.x509"}
PURE_MODULES["registry.names"] |= {"tls.x509"}
"""Modules with a stricter rule than their room."""


def resolved(name: str) -> str | None:
    """Return the module of ours that the import of `name` loads, or None."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full names that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dependencies(module: str) -> set[str]:
    """Return the modules of ours that `module` imports, without the root package, which holds the version only."""
    found = {resolved(name) for name in imported(TREES[module]) if name.partition(".")[0] == "handshaked"}
    return {name for name in found if name is not None} - {module, "handshaked"}


def room_of(module: str) -> str:
    """Return the room of `module`: the directory it lies in, or the module itself in the root."""
    path = FILES[module].relative_to(PACKAGE)
    return ".".join(path.parent.parts) or path.stem


def is_in(module: str, group: str) -> bool:
    """Return whether `module` is `group` of ``handshaked``, or below it."""
    return module == f"handshaked.{group}" or module.startswith(f"handshaked.{group}.")


MODULES = sorted(set(FILES) - {"handshaked"})
ALL_ROOMS = sorted({room_of(module) for module in MODULES})


def test_every_room_has_its_row() -> None:
    assert set(ALL_ROOMS) == set(ROOMS)


def test_every_allowed_import_names_a_room_or_module() -> None:
    names = {*SANS_IO, *PURE_MODULES, *(name for allowed in ROOMS.values() for name in allowed - EVERYTHING)}
    assert {name for name in names if not any(is_in(module, name) for module in MODULES)} == set()


def test_every_allowed_import_is_used() -> None:
    """A row that allows more than there is hides the next wrong arrow."""
    used = {(room_of(module), room_of(name)) for module in MODULES for name in dependencies(module)}
    rooms = {room: {room_of(f"handshaked.{name}") if f"handshaked.{name}" in FILES else name for name in allowed}
             for room, allowed in ROOMS.items() if allowed is not EVERYTHING}  # fmt: skip
    unused = {(room, name) for room, allowed in rooms.items() for name in allowed - BASIS if (room, name) not in used}
    assert unused == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    room = room_of(module)
    allowed = PURE_MODULES.get(module.removeprefix("handshaked."), {room, *ROOMS[room]})
    if allowed >= EVERYTHING:
        return
    wrong = {
        name for name in dependencies(module) if room_of(name) not in allowed and not {name[11:]} & allowed
    }  # fmt: skip
    assert not wrong, f"{module} imports {sorted(wrong)}"


def test_the_root_is_sorted() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_ROOT_MODULES


def assert_acyclic(arrows: dict[str, set[str]]) -> None:
    """Fail with the cycle in `arrows`, if there is one."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_files_form_no_import_cycle() -> None:
    assert_acyclic({module: dependencies(module) for module in MODULES})


def test_rooms_form_no_import_cycle() -> None:
    arrows: dict[str, set[str]] = {room: set() for room in ALL_ROOMS}
    for module in MODULES:
        arrows[room_of(module)] |= {room_of(name) for name in dependencies(module)} - {room_of(module)}
    assert_acyclic(arrows)


FORBIDDEN = {
    *("asyncio", "concurrent", "fcntl", "io", "logging", "mmap", "multiprocessing", "pathlib", "select", "selectors"),
    *("shutil", "signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "syslog", "tempfile", "threading"),
    *("time", "urllib"),
}
ALLOWED_OF_OS = {"urandom", "strerror"}
CLOCKS = {"now", "utcnow", "today"}
PURE = sorted(module for module in FILES if any(is_in(module, group) for group in SANS_IO))


@pytest.mark.parametrize("module", PURE)
def test_the_core_does_no_io_and_reads_no_clock(module: str) -> None:
    names = set(imported(TREES[module]))
    assert not {name for name in names if name.partition(".")[0] in FORBIDDEN}
    assert {name.partition(".")[2] for name in names if name.startswith("os.")} <= ALLOWED_OF_OS
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "os" or node.attr in ALLOWED_OF_OS, f"os.{node.attr} in line {node.lineno}"
        if isinstance(node, ast.Call):
            function = node.func
            assert not (isinstance(function, ast.Name) and function.id in ("open", "print", "input")), node.lineno
            assert not (isinstance(function, ast.Attribute) and function.attr in CLOCKS), node.lineno


def test_the_engine_does_not_import_what_holds_private_keys() -> None:
    found, new = set(), {"handshaked.tls.client", "handshaked.tls.server", "handshaked.tls.stream"}
    while new:
        found |= new
        new = {name for module in new for name in dependencies(module)} - found
    assert "handshaked.tls.parameters" in found
    assert "handshaked.tls.private_key" not in found


def test_the_library_that_is_hard_to_replace_has_one_importer() -> None:
    importers = [
        module for module, tree in TREES.items() if any(name.partition(".")[0] == "pyroute2" for name in imported(tree))
    ]
    assert len(importers) == 1


@pytest.mark.parametrize("implementation", ["sqlite_reader", "sqlite_writer"])
def test_only_the_composition_names_an_implementation_of_the_registry(implementation: str) -> None:
    module = f"handshaked.registry.{implementation}"
    importers = {name for name in FILES if module in dependencies(name)}
    assert importers <= {"handshaked.daemon", "handshaked.worker", "handshaked.registry.sqlite_writer"}


def test_importing_the_shim_loads_neither_engine_nor_registry() -> None:
    script = "import sys, handshaked.shim, handshaked.shim.aioquic; print(*sys.modules)"
    loaded = run_program(sys.executable, "-c", script).stdout.split()
    assert "handshaked.shim.client" in loaded
    for group in ("tls", "registry", "session", "datapath", "handshakes", "upcall", "control", "daemon"):
        assert not any(is_in(name, group) for name in loaded), group


MAX_LINES = 400
MAX_FUNCTION_LINES = 40
PLACES = ("handshaked", "tests", "benchmarks", "examples", "netlink")
PYTHON = [path for place in PLACES for path in (ROOT / place).rglob("*.py")]


def test_files_and_functions_stay_short() -> None:
    """Past these sizes, look for the part that wants a file or function of its own."""
    long = []
    for path in PYTHON:
        text = path.read_text()
        if (count := len(text.splitlines())) > MAX_LINES:
            long.append(f"{path.relative_to(ROOT)}: {count} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                count = node.end_lineno - node.lineno + 1
                if count > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {count} lines")
    assert long == []
