"""``import-tlshd``: what it writes is what the daemon takes, and what it cannot write it says."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.configuration.handshaked_toml import load_configuration
from handshaked.control.files.drop_ins import read_drop_ins
from handshaked.model import KeyType
from handshaked.registry.peer_rules import PeerRules
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon

PROGRAM = Path(sys.executable).with_name("handshakectl")
TAGS = """
filters:
  monsters-university:
    type: "x509.tbs.issuer"
    pattern: "*O=Monsters University*"
  fraternity:
    type: "x509.tbs.subject"
    pattern: "CN=*.monsters.test"
  signs:
    type: "x509.extension.keyUsage"
    purpose: ["digitalSignature"]
  one:
    type: "x509.derived.fingerprint"
    pattern: "{fingerprint}"
tags:
  chapter:
    filter: ["fraternity", "monsters-university"]
  known:
    filter: ["one"]
  signing:
    filter: ["signs"]
  others:
    filter: ["not fraternity"]
  undefined:
    filter: ["nobody"]
"""


def run(*words: str | Path, status: int = 0) -> tuple[str, str]:
    """Output and complaints of ``import-tlshd``."""
    process = subprocess.run([PROGRAM, "import-tlshd", *words], capture_output=True, text=True, check=False, timeout=60)
    assert process.returncode == status, process.stdout + process.stderr
    return process.stdout, process.stderr


def tlshd(root: Path, content: str, place: str = "etc/tlshd/config") -> Path:
    """tlshd's configuration below `root`."""
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_every_setting_with_a_counterpart_is_imported(tmp_path: Path) -> None:
    tlshd(
        tmp_path,
        "# comment\n[debug]\nloglevel=1\ntls=0\n\n[authenticate]\nkeyrings= .nvme;mine;yours;\n"
        "[authenticate.client]\nx509.truststore= /ca.pem\nx509.crl=/crl.pem\n"
        "x509.certificate= /client.pem\nx509.private_key = /client.key\n"
        "[authenticate.server]\nx509.truststore=/ca.pem\nx509.certificate=/s.pem\nx509.private_key=/s.key\n"
        "x509.pq.certificate=/pq.pem\nx509.pq.private_key=/pq.key\n",
    )
    run(f"--root={tmp_path}")
    settings = load_configuration(tmp_path / "etc/handshaked/handshaked.toml", required=True)
    assert settings.log_level == "debug"
    assert settings.kernel.keyrings == ("mine", "yours")
    assert settings.client.trust == Path("/ca.pem")
    assert settings.client.revocation_lists == (Path("/crl.pem"),)
    assert (settings.client.certificate, settings.client.private_key) == (Path("/client.pem"), Path("/client.key"))
    assert settings.server.trust == Path("/ca.pem")
    assert (settings.server.certificate, settings.server.private_key) == (Path("/s.pem"), Path("/s.key"))
    tables = tomllib.loads((tmp_path / "etc/handshaked/registrations.d/tlshd.toml").read_text())["registration"]
    assert [(name, table["alpns"], table["allow-kernel"]) for name, table in tables.items()] == [
        ("tlshd", ["sunrpc"], True),
        ("tlshd-without-alpn", [], True),
    ]
    for table in tables.values():
        assert [(one["certificate"], one["key"]) for one in table["credentials"]] == [
            ("/s.pem", "/s.key"),
            ("/pq.pem", "/pq.key"),
        ]


def test_a_daemon_serves_what_was_imported(public_directory: Path) -> None:
    authority = Authority(public_directory)
    server, other = authority.issue("server.test"), authority.issue("other.test", key_type=KeyType.RSA)
    tlshd(
        public_directory,
        f"[authenticate.server]\nx509.truststore={authority.root}\nx509.certificate={server.certificate}\n"
        f"x509.private_key={server.key}\nx509.pq.certificate={other.certificate}\nx509.pq.private_key={other.key}\n",
        "etc/tlshd.conf",
    )
    running = RunningDaemon(public_directory, workers=1)
    run(f"--root={public_directory}", f"--into={running.drop_ins.parent}")
    assert not read_drop_ins(running.drop_ins).problems
    with running:
        names = [one["name"] for one in running.ask("list")["registrations"]]
    assert names == ["tlshd", "tlshd-without-alpn"]


def test_tags_become_rules(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "root of Monsters University")
    leaf = authority.issue("ror.monsters.test").leaf.public_bytes(Encoding.DER)
    tlshd(tmp_path, "[authenticate.server]\nx509.truststore=/ca.pem\n")
    digest = "AB" * 32
    tlshd(tmp_path, TAGS.replace("{fingerprint}", digest).replace("*O=", "CN=*of "), "etc/tlshd/tags.d/a.yaml")
    _, said = run(f"--root={tmp_path}", status=1)
    rules = load_configuration(tmp_path / "etc/handshaked/handshaked.toml", required=True).server.peers
    assert len(rules) == 2
    assert PeerRules(rules).authorise(leaf) == ("chapter",)
    assert f"fingerprint={digest.lower()}" in rules[1]
    left_out = [line for line in said.splitlines() if "left out: tag " in line]
    assert len(left_out) == 3
    for words in (
        "signing: filter 'signs': x509.extension.keyUsage has no counterpart in rules",
        "others: 'not fraternity'",
    ):
        assert any(words in line for line in left_out), left_out
    assert "filter 'nobody' is not defined" in said


@pytest.mark.parametrize("key", ["loglevel", "tls", "nl"])
def test_each_debug_level_asks_for_debug_messages(tmp_path: Path, key: str) -> None:
    for number, level in (("0", None), ("nonsense", None), ("00", None), ("3", "debug")):  # GLib takes nonsense for 0
        tlshd(tmp_path, f"[debug]\n{key}={number}\n")
        printed, _ = run(f"--root={tmp_path}", "--print")
        assert ('level = "debug"' in printed) is (level is not None)


def test_indentation_of_lines_has_no_meaning(tmp_path: Path) -> None:
    tlshd(tmp_path, "[authenticate.client]\nx509.truststore=/ca.pem\n   x509.crl=/crl.pem\n # comment\n")
    printed, _ = run(f"--root={tmp_path}", "--print")
    assert 'trust = "/ca.pem"\nrevocation_lists = ["/crl.pem"]' in printed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[debug]\ndelay_done=3\n", "delay_done"),
        ("[authenticate.client]\nx509.truststores=/ca\n", "x509.truststores in [authenticate.client]: not known"),
        ("[authenticate.quic]\nx509.truststore=/ca\n", "section [authenticate.quic]: not known"),
        ("[authenticate]\nkeyrings=12345;mine\n", "keyring 12345"),
        ("[authenticate.client]\nx509.certificate=/c\nx509.private_key=pkcs11:token=a\n", "reads keys from files only"),
        ("[authenticate.client]\nx509.certificate=/c\n", "one requires the other"),
        ("[authenticate.client]\nx509.crl=/crl\n", "require x509.truststore"),
        ("[authenticate.server]\nx509.certificate=/c\nx509.private_key=/k\n", "set trust in [server]"),
    ],
)
def test_what_cannot_be_expressed_is_reported(tmp_path: Path, content: str, words: str) -> None:
    tlshd(tmp_path, content)
    _, said = run(f"--root={tmp_path}", status=1)
    assert words in said
    assert (tmp_path / "etc/handshaked/handshaked.toml").exists(), "the rest is taken over"


@pytest.mark.parametrize(
    ("content", "words"),
    [("x509.truststore=/ca\n", "no section headers"), ("[authenticate.client]\nx509.truststore=ca.pem\n", "absolute")],
)
def test_an_unreadable_configuration_writes_nothing(tmp_path: Path, content: str, words: str) -> None:
    tlshd(tmp_path, content)
    _, said = run(f"--root={tmp_path}", status=1)
    assert words in said
    assert not (tmp_path / "etc/handshaked").exists()


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    tlshd(tmp_path, "[authenticate.client]\nx509.truststore=/ca.pem\n")
    present = tmp_path / "etc/handshaked/handshaked.toml"
    present.parent.mkdir()
    present.write_text("# mine\n")
    _, said = run(f"--root={tmp_path}", status=1)
    assert "exists: move it away" in said
    assert present.read_text() == "# mine\n"
    printed, _ = run(f"--root={tmp_path}", "--print")
    assert 'trust = "/ca.pem"' in printed


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    _, said = run(f"--root={tmp_path}", status=1)
    assert "do not exist" in said
