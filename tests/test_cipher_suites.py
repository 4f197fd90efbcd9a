"""A cipher suite is one row of ``model.CipherSuite``, where every layer finds what it needs."""

import ast
import os
import re
import shutil
import sys
from pathlib import Path

from handshaked.model import CipherSuite
from tests.patience import run_program

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "handshaked"
TABLE = PACKAGE / "model.py"
OF_AIOQUIC = PACKAGE / "shim" / "aioquic" / "translation.py"
"""It names a suite of aioquic's own enumeration."""
ADDED = '    ADDED = (0xFF01, "sha384", Aead.CHACHA20_POLY1305, 32, 5, 99, 0, True)\n'
"""A suite that does not exist, with a code point for private use (RFC 8446 section 11)."""


def test_no_module_but_the_table_names_a_suite() -> None:
    names = set(CipherSuite.__members__)
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & names
        found |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in names}
        assert not found or path == OF_AIOQUIC, f"{path.relative_to(ROOT)} names {found}"


def test_every_layer_uses_a_suite_that_was_added_to_the_table(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "handshaked", ignore=shutil.ignore_patterns("__pycache__"))
    source = TABLE.read_text()
    table, count = re.subn(r"(?m)(?<=^    # fmt: off\n)", ADDED, source)
    assert count == 1
    (tmp_path / "handshaked" / "model.py").write_text(table)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    run_program(sys.executable, "-m", "tests.cipher_suite_added", cwd=tmp_path, env=environment)


def test_code_points_and_linux_ciphers_are_unique() -> None:
    assert len({suite.value for suite in CipherSuite}) == len(CipherSuite.__members__)
    assert len({suite.linux_cipher for suite in CipherSuite}) == len(CipherSuite.__members__)
