"""The documentation agrees with the code: messages, options, the parts that are generated."""

import ast
import re
from pathlib import Path

import pytest

from handshaked.cli.reference import generated
from handshaked.registry.settings import CREDENTIAL, FORCE

CHECKOUT = Path(__file__).parents[2]
LEVELS = {"warning", "error", "critical", "exception"}


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_what_is_written_by_the_code_is_up_to_date(path: Path) -> None:
    assert path.read_text() == generated()[path], "run scripts/docs"


def messages() -> set[str]:
    """All that is logged at the levels warning and error, by format."""
    found = set()
    for path in (CHECKOUT / "handshaked").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=str(text)), *_]
                ) if level in LEVELS:
                    found.add(text)
    return found - {"%s"}


def test_every_message_is_explained() -> None:
    explained = (CHECKOUT / "docs/reference/messages.md").read_text()
    logged = messages()
    assert not {message for message in logged if f"`{message}`" not in explained}
    assert not set(re.findall(r"`([^`]*%[sdg][^`]*)`", explained)) - logged - {"%s"}


def test_every_text_names_the_same_kernel_version() -> None:
    """The family is in Linux since 6.4."""
    texts = [CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md"), *(CHECKOUT / "handshaked").rglob("*.py")]
    named = {
        version
        for path in (*texts, CHECKOUT / "netlink/handshake.yaml")
        for version, sentence in re.findall(r"Linux (\d+\.\d+)\b([^.]*)", path.read_text())
        if "NET_HANDSHAKE" in sentence
    }
    assert named == {"6.4"}


def test_every_key_of_a_drop_in_is_named() -> None:
    reference = (CHECKOUT / "docs/reference/files.md").read_text()
    keys = {file.key for file in CREDENTIAL} | {FORCE.key, "credentials", "owner"}
    assert not {key for key in keys if f"`{key}`" not in reference}
    assert "](registration-settings.md)" in reference


def test_every_file_that_is_installed_is_named() -> None:
    reference = (CHECKOUT / "docs/reference/files.md").read_text()
    for path in (CHECKOUT / "systemd").iterdir():
        if path.suffix not in (".service", ".socket") or path.name.startswith("org."):
            assert path.name in reference or f"{path.name.split('.')[0]}.d/handshaked.conf" in reference


def test_every_metric_is_named() -> None:
    reference = (CHECKOUT / "docs/reference/metrics.md").read_text()
    source = (CHECKOUT / "handshaked/reporting/metrics.py").read_text()
    metrics = set(re.findall(r'"(handshaked_\w+)"', source))
    assert len(metrics) > 5
    assert not {name for name in metrics if f"`{name}`" not in reference and f"`{name}_total`" not in reference}
