"""The directions of the arrows: who may import whom, and what stays free of I/O and clocks."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "handshaked").rglob("*.py")
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}

BASIS = {"model", "errors", "events"}
PURE_REGISTRY = {
    "registry.names",
    "registry.registration",
    "registry.snapshot",
    "registry.peer_rules",
    "registry.delivery",
}
SANS_IO = {"model", "errors", "events", "session", "tls", "quic", *PURE_REGISTRY}
"""Bytes and the time come in, events go out."""

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "model": {"errors"},
    "events": {"errors", "model"},
    "tls": BASIS,
    "quic": BASIS,
    "wire": BASIS,
    **dict.fromkeys(PURE_REGISTRY, BASIS | PURE_REGISTRY),
    "registry": BASIS | {"registry", "tls"},
    "session": BASIS | PURE_REGISTRY | {"tls"},
    "handshakes": BASIS | {"configuration", "datapath", "registry", "session", "tls"},
    "handshakes.service": BASIS | PURE_REGISTRY | {"datapath.driver", "session", "tls", "quic"},
    "handshakes.caller_credentials": BASIS | {"registry.credentials", "registry.files", "tls"},
    "datapath": BASIS | {"session", "tls", "wire"},
    "callers": {"errors", "model", "wire.json_packets"},
    "upcall": BASIS | {"callers", "configuration", "handshakes", "datapath", "wire"},
    "shim": BASIS | {"wire", "system.directories", "demux.accepting", "demux.tokens"},
}
"""Below ``handshaked``, without itself; a name stands for all below it. What is not listed wires things together."""


def resolved(name: str) -> str | None:
    """The module of ours that the import of `name` loads."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


def imported(tree: ast.Module) -> Iterator[str]:
    """The full names that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(module: str) -> set[str]:
    """The modules of ours that `module` imports."""
    found = {resolved(name) for name in imported(TREES[module]) if name.partition(".")[0] == "handshaked"}
    return {name for name in found if name is not None and name != module}


def is_in(module: str, group: str) -> bool:
    """Whether `module` is `group` of ``handshaked``, or below it."""
    return module == f"handshaked.{group}" or module.startswith(f"handshaked.{group}.")


def rule_for(module: str) -> str | None:
    """The most special line of the table that `module` belongs to."""
    return max((group for group in MAY_IMPORT if is_in(module, group)), key=len, default=None)


RULED = sorted(module for module in FILES if rule_for(module) is not None)


@pytest.mark.parametrize("module", RULED)
def test_no_arrow_runs_back_up(module: str) -> None:
    rule = rule_for(module)
    assert rule is not None
    allowed = {rule.partition(".")[0] if rule not in PURE_REGISTRY else rule, *MAY_IMPORT[rule]}
    wrong = {name for name in ours(module) - {"handshaked"} if not any(is_in(name, group) for group in allowed)}
    assert not wrong, f"{module} imports {sorted(wrong)}"


def test_the_table_names_what_there_is() -> None:
    for group in {*MAY_IMPORT, *SANS_IO, *(name for names in MAY_IMPORT.values() for name in names)}:
        assert any(is_in(module, group) for module in FILES), group


FORBIDDEN = {
    *("asyncio", "concurrent", "fcntl", "io", "logging", "mmap", "multiprocessing", "pathlib", "select", "selectors"),
    *("shutil", "signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "syslog", "tempfile", "threading"),
    *("time", "urllib"),
}
OF_OS = {"urandom", "strerror"}
CLOCKS = {"now", "utcnow", "today"}
PURE = sorted(module for module in FILES if any(is_in(module, group) for group in SANS_IO))


@pytest.mark.parametrize("module", PURE)
def test_the_core_does_no_io_and_knows_no_clock(module: str) -> None:
    names = set(imported(TREES[module]))
    assert not {name for name in names if name.partition(".")[0] in FORBIDDEN}
    assert {name.partition(".")[2] for name in names if name.startswith("os.")} <= OF_OS
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "os" or node.attr in OF_OS, f"os.{node.attr} in line {node.lineno}"
        if isinstance(node, ast.Call):
            function = node.func
            assert not (isinstance(function, ast.Name) and function.id in ("open", "print", "input")), node.lineno
            assert not (isinstance(function, ast.Attribute) and function.attr in CLOCKS), node.lineno


@pytest.mark.parametrize("library", ["dbus_next", "pyroute2"])
def test_a_library_with_a_mind_of_its_own_has_one_importer(library: str) -> None:
    importers = [
        module for module, tree in TREES.items() if any(name.partition(".")[0] == library for name in imported(tree))
    ]
    assert len(importers) == 1


def test_there_are_no_import_cycles() -> None:
    """Not even such as an import in a function hides."""
    arrows = {module: ours(module) for module in FILES}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_a_caller_of_the_shim_does_not_load_the_engine_or_the_registry() -> None:
    script = "import sys, handshaked.shim, handshaked.shim.aioquic; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "handshaked.shim.client" in loaded
    for group in ("tls", "registry", "session", "datapath", "handshakes", "upcall", "control", "daemon"):
        assert not any(is_in(name, group) for name in loaded), group
