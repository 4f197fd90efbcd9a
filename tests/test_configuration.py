"""The configuration file, and ``handshaked --check-config``: what is wrong is told with file and line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handshaked.configuration import OWN_NAMESPACE, Configuration, load_configuration, parse_configuration
from handshaked.errors import RefusedError
from handshaked.testing.authority import Authority, Issued

EVERYTHING = """\
client.trust = "/etc/roots.pem"  # a table of one line

[server]
certificate = "/etc/server.pem"
private_key = "/etc/server.key"
trust = "/etc/clients.pem"
revocation_lists = ["/etc/one.crl", "/etc/two.crl"]
require_revocation_lists = true
peers = ["allow san=dns:*.example.com"]

[kernel]
enabled = true
network_namespaces = [".", "blue"]
keyrings = ["ours"]

[limits]
kernel_handshakes = 7
server_timeout = 2

[log]
level = "debug"
"""


def check(*words: str) -> tuple[int, str]:
    """The exit code of ``handshaked --check-config``, and what it says."""
    command = [sys.executable, "-m", "handshaked.daemon", "--check-config", *words]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.stdout == ""
    return process.returncode, process.stderr


def test_every_setting_is_taken() -> None:
    found = parse_configuration(EVERYTHING, "c.toml")
    assert found.client.trust == Path("/etc/roots.pem")
    assert found.client.alpns == (b"sunrpc",)
    assert (found.server.certificate, found.server.private_key) == (Path("/etc/server.pem"), Path("/etc/server.key"))
    assert found.server.revocation_lists == (Path("/etc/one.crl"), Path("/etc/two.crl"))
    assert found.server.require_revocation_lists
    assert found.server.peers == ("allow san=dns:*.example.com",)
    assert (found.kernel.enabled, found.kernel.network_namespaces) == (True, (OWN_NAMESPACE, "blue"))
    assert found.kernel.keyrings == ("ours",)
    assert (found.limits.kernel_handshakes, found.limits.server_timeout) == (7, 2)
    assert found.limits.client_timeout == Configuration().limits.client_timeout
    assert found.log_level == "debug"


def test_no_file_is_no_setting_unless_it_is_named(tmp_path: Path) -> None:
    assert load_configuration(tmp_path / "c.toml", required=False) == Configuration()
    with pytest.raises(RefusedError, match=r"c\.toml: there is no such file"):
        load_configuration(tmp_path / "c.toml", required=True)
    (tmp_path / "c.toml").write_bytes(b"\xff")
    with pytest.raises(RefusedError, match=r"c\.toml: cannot be read"):
        load_configuration(tmp_path / "c.toml", required=False)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("[server]", "[servers]", 3, "no table or setting 'servers'; there are client, kernel, limits, log, server"),
        ("[server]", "colour = 1\n[server]", 3, "no table or setting 'colour'"),
        ("client.trust", "client", 1, "client is a table: write [client]"),
        ('client.trust = "/etc', 'client.trust = "etc', 1, "trust: an absolute path is wanted"),
        ("certificate =", "certificat =", 4, "[server] has no setting 'certificat'; there are certificate, peers"),
        ("trust = ", "# trust = ", 1, ""),
        ('private_key = "/etc/server.key"\n', "", 4, "certificate and private_key go together"),
        ('trust = "/etc/clients.pem"\n', "", 6, "revocation_lists goes with trust"),
        ('["/etc/one.crl", "/etc/two.crl"]', '"/etc/one.crl"', 7, "a list is wanted"),
        ('"/etc/two.crl"]', "2]", 7, "an absolute path is wanted"),
        ("require_revocation_lists = true", "require_revocation_lists = 1", 8, "true or false is wanted"),
        ("allow san", "permit san", 9, "begins with 'permit' instead of allow, deny, tag"),
        ("enabled = true", 'enabled = "yes"', 12, "true or false is wanted"),
        ('"blue"', '"../blue"', 13, "is not the name of a network namespace"),
        ('"blue"', '".."', 13, "is not the name of a network namespace"),
        ('"ours"', "7", 14, "a printable string is wanted"),
        ("= 7", "= 7.5", 17, "a whole number from 1 to 65536 is wanted"),
        ("= 7", "= true", 17, "a whole number"),
        ("server_timeout = 2", "server_timeout = nan", 18, "a number from 0.1 to 600 is wanted"),
        ("server_timeout = 2", "server_timeout = 601", 18, "a number from 0.1 to 600 is wanted"),
        ('"debug"', '"loud"', 21, "one of "),
        ("[log]", "[log", 20, "Expected"),
        ('level = "debug"\n', "level = ", 21, ""),
    ],
)
def test_what_is_wrong_is_told_with_its_line(old: str, new: str, line: int, words: str) -> None:
    assert old in EVERYTHING
    with pytest.raises(RefusedError) as caught:
        parse_configuration(EVERYTHING.replace(old, new, 1), "c.toml")
    assert str(caught.value).startswith(f"c.toml:{line}: "), caught.value
    assert words in str(caught.value)


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return Authority(tmp_path).issue("www.example.com")


def test_check_config_looks_at_settings_and_registrations(tmp_path: Path, issued: Issued) -> None:
    settings, drop_in = tmp_path / "handshaked.toml", tmp_path / "registrations.d/web.toml"
    arguments = (f"--configuration={settings}", f"--configuration-directory={tmp_path}")
    drop_in.parent.mkdir()
    settings.write_text(f'[server]\ncertificate = "{issued.certificate}"\nprivate_key = "{issued.key}"\n')
    web = f'[registration.web]\nalpns = ["h3"]\ncertificate = "{issued.certificate}"\nkey = "{issued.key}"\n'
    drop_in.write_text(web)
    assert check(*arguments) == (0, "")
    drop_in.write_text(web.replace("alpns", "alpn") + "[registration.other]\n")
    assert check(*arguments) == (
        1,
        f"handshaked: {drop_in}:2: unknown key 'alpn'\n"
        f"handshaked: {drop_in}:5: give a certificate and a key: only a registration that forwards needs none\n",
    )
    settings.write_text("[colours]\n")
    status, said = check(*arguments)
    assert (status, said.partition(";")[0]) == (1, f"handshaked: {settings}:1: there is no table or setting 'colours'")
    settings.write_text(f'[client]\ntrust = "{tmp_path}/nowhere.pem"\n')
    assert check(*arguments) == (1, f"handshaked: {tmp_path}/nowhere.pem: {os.strerror(2)}\n")
