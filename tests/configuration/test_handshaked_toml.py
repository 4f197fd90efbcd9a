"""Read handshaked.toml: every setting, the defaults, and errors that name file, line and known names."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from handshaked.configuration.handshaked_toml import (
    Configuration,
    KernelSettings,
    LimitSettings,
    SideDefaults,
    load_configuration,
    parse_configuration,
)
from handshaked.errors import RefusedError
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.certificates import DAY, revocation_list
from tests.patience import PATIENCE
from tests.tls.x509.chains import ROOT

EVERYTHING = """
[client]
trust = "/etc/trust.pem"
revocation_lists = ["/etc/one.crl", "/etc/two.crl"]
require_revocation_lists = true
revocation_list_grace = 1.5
certificate = "/etc/client.pem"
private_key = "/etc/client.key"
peers = ["deny fingerprint=00", "allow san=dns:*.example.com tag=ours"]
alpn = ["sunrpc", "other"]

[server]
trust = "/etc/clients.pem"
certificate = "/etc/server.pem"
private_key = "/etc/server.key"
alpn = []

[kernel]
enabled = true
network_namespaces = [".", "one"]
keyrings = ["of-ours"]

[limits]
kernel_handshakes = 10
client_timeout = 1
server_timeout = 2.5
longest_timeout = 600

[log]
level = "debug"
"""


def test_every_setting_is_read() -> None:
    assert parse_configuration(EVERYTHING, "file") == Configuration(
        client=SideDefaults(
            trust=Path("/etc/trust.pem"),
            revocation_lists=(Path("/etc/one.crl"), Path("/etc/two.crl")),
            require_revocation_lists=True,
            revocation_list_grace=1.5,
            certificate=Path("/etc/client.pem"),
            private_key=Path("/etc/client.key"),
            peers=("deny fingerprint=00", "allow san=dns:*.example.com tag=ours"),
            alpns=(b"sunrpc", b"other"),
        ),
        server=SideDefaults(
            trust=Path("/etc/clients.pem"),
            certificate=Path("/etc/server.pem"),
            private_key=Path("/etc/server.key"),
            alpns=(),
        ),
        kernel=KernelSettings(enabled=True, network_namespaces=(".", "one"), keyrings=("of-ours",)),
        limits=LimitSettings(kernel_handshakes=10, client_timeout=1, server_timeout=2.5, longest_timeout=600),
        log_level="debug",
    )


def test_an_empty_or_missing_file_gives_the_defaults(tmp_path: Path) -> None:
    assert parse_configuration("", "file") == Configuration()
    assert load_configuration(tmp_path / "none", required=False) == Configuration()
    for side in ("client", "server"):
        said = getattr(parse_configuration(f'[{side}]\ntrust = "/a"\n', "file"), side)
        assert (said.trust, said.alpns) == (Path("/a"), (b"sunrpc",))


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("\n[clients]\n", "file:2: unknown table or setting 'clients'; known names: client, kernel,"),
        ("level = 1", "file:1: unknown table or setting 'level'"),
        ("kernel = 3", r"file:1: kernel must be a table: write \[kernel\]"),
        (
            '[server]\n# here\ntrsut = "/x"',
            r"file:3: \[server\] has no setting 'trsut'; known names: alpn, certificate,",
        ),
        ('[client]\ntrust = "trust.pem"', "file:2: trust: must be an absolute path"),
        ('[client]\ncertificate = "/c"', "file:2: certificate requires private_key"),
        ('[client]\nprivate_key = "/c"', "file:2: private_key requires certificate"),
        ('[client]\nrevocation_lists = ["/c"]', "file:2: revocation_lists requires trust"),
        (
            '[client]\ntrust = "/t"\nrequire_revocation_lists = 1',
            "file:3: require_revocation_lists: must be true or false",
        ),
        ("[client]\nrevocation_list_grace = 1", "file:2: revocation_list_grace requires trust"),
        (
            '[server]\ntrust = "/t"\nrevocation_list_grace = 8761',
            "file:3: revocation_list_grace: must be a number from",
        ),
        ('[client]\npeers = ["permit san=dns:x"]', "file:2: peers: rule 'permit san=dns:x' begins with 'permit'"),
        ('[client]\npeers = "allow"', "file:2: peers: must be a list"),
        ('[client]\nalpn = [""]', "file:2: alpn: "),
        ('[kernel]\nnetwork_namespaces = ["../one"]', "file:2: network_namespaces: '../one' is not the name"),
        ('[kernel]\nnetwork_namespaces = [".."]', "file:2: network_namespaces: '..' is not the name"),
        ('[kernel]\nkeyrings = ["a\\nb"]', "file:2: keyrings: must be a printable string"),
        ("[limits]\nclient_timeout = 0", "file:2: client_timeout: must be a number from 0.1 to 600"),
        ("[limits]\nclient_timeout = nan", "file:2: client_timeout: must be a number from 0.1 to 600"),
        ("[limits]\nclient_timeout = true", "file:2: client_timeout: must be a number from 0.1 to 600"),
        ("[limits]\nkernel_handshakes = 1.5", "file:2: kernel_handshakes: must be an integer from 1 to 65536"),
        ('[log]\nlevel = "loud"', "file:2: level: must be one of debug,"),
        ("[log]\nlevel = []", "file:2: level: must be one of debug,"),
        ('[log]\nlevel = "info"\nlevel = "info"\n', "file:3: Cannot overwrite a value"),
        ("[log\nlevel = 1", "file:1: Expected"),
    ],
)
def test_unknown_and_invalid_settings_are_refused_with_their_line(text: str, refusal: str) -> None:
    with pytest.raises(RefusedError, match=f"^{refusal}"):
        parse_configuration(text, "file")


def check(path: Path, *options: str) -> tuple[int, str]:
    """``--check-config``: exit code, and what was said."""
    command = [sys.executable, "-m", "handshaked.daemon", "--check-config", f"--configuration={path}", *options]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert process.stdout == ""
    return process.returncode, process.stderr


def test_check_config_reports_missing_and_invalid_settings(tmp_path: Path, authority: Authority) -> None:
    file = tmp_path / "handshaked.toml"
    assert check(file) == (1, f"handshaked: {file}: no such file\n")
    file.write_text(f'[client]\ntrust = "{authority.root}"\n')
    assert check(file) == (0, "")
    file.write_text("[client]\ntrusts = 1\n")
    status, said = check(file)
    assert (status, said.startswith(f"handshaked: {file}:2: [client] has no setting 'trusts'")) == (1, True)
    file.write_bytes(b"\xff")
    assert check(file)[0] == 1


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("setting", ["trust", "certificate", "private_key", "revocation_lists"])
def test_check_config_looks_into_the_files(tmp_path: Path, authority: Authority, side: str, setting: str) -> None:
    issued = authority.issue("someone", client=True, file_name=f"checked-{side}-{setting}")
    nothing = tmp_path / "nothing.pem"
    values = {
        "trust": f'"{authority.root}"',
        "certificate": f'"{issued.certificate}"',
        "private_key": f'"{issued.key}"',
        "revocation_lists": "[]",
    }
    values[setting] = f'["{nothing}"]' if setting == "revocation_lists" else f'"{nothing}"'
    file = tmp_path / "handshaked.toml"
    file.write_text(f"[{side}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
    assert check(file) == (1, f"handshaked: [{side}] {nothing}: No such file or directory\n")
    nothing.write_text("nothing of use\n")
    status, said = check(file)
    assert status == 1
    assert said.startswith(f"handshaked: [{side}] {nothing}: ")


def test_check_config_refuses_a_certificate_for_the_other_side(tmp_path: Path, authority: Authority) -> None:
    server, client = (authority.issue("both", client=client, file_name=f"side-{client}") for client in (False, True))
    file = tmp_path / "handshaked.toml"
    for side, right, wrong in (("server", server, client), ("client", client, server)):
        file.write_text(f'[{side}]\ncertificate = "{right.certificate}"\nprivate_key = "{right.key}"\n')
        assert check(file) == (0, "")
        file.write_text(f'[{side}]\ncertificate = "{wrong.certificate}"\nprivate_key = "{wrong.key}"\n')
        status, said = check(file)
        assert (status, f"[{side}] the certificate CN=both is not for {side}s" in said) == (1, True)


def test_a_reload_reports_an_unusable_configuration(public_directory: Path, authority: Authority) -> None:
    file = public_directory / "handshaked.toml"
    file.write_text(f'[server]\ntrust = "{authority.root}"\n')
    options = ("--no-kernel", f"--configuration={file}")
    with RunningDaemon(public_directory, workers=1, options=options) as running:
        assert running.ask("reload")["errors"] == []
        file.write_text('[server]\ntrust = "/nowhere"\n')
        assert running.ask("reload")["errors"] == ["[server] /nowhere: No such file or directory"]
        file.write_text("[servers]\n")
        (error,) = running.ask("reload")["errors"]
        assert error.startswith(f"{file}:1: unknown table or setting 'servers'")


def test_a_worker_that_starts_when_the_configuration_is_broken_gets_the_last_good_one(
    public_directory: Path, authority: Authority
) -> None:
    file = public_directory / "handshaked.toml"
    file.write_text(f'[server]\ntrust = "{authority.root}"\n')
    options = ("--kernel", f"--configuration={file}")
    with RunningDaemon(public_directory, workers=1, options=options) as running:

        def kernel_sources() -> list[object]:
            return [worker["kernel"] for worker in running.ask("status")["workers"] if worker["answers"]]

        (before,) = running.worker_pids()
        assert kernel_sources() != [None]
        file.write_text("[servers]\n")
        os.kill(before, signal.SIGKILL)
        running.wait_until(lambda: running.worker_pids() not in ([], [before]))
        assert kernel_sources() != [None]
        assert "unknown table or setting 'servers'" in running.ask("reload")["errors"][0]
        file.write_text("")
        assert running.ask("reload")["errors"] == []
        assert kernel_sources() != [None]


def test_revocation_list_out_of_date_is_reported_until_it_is_replaced(public_directory: Path) -> None:
    (public_directory / "ca.pem").write_bytes(ROOT.pem)
    now = datetime.now(UTC)
    (public_directory / "ca.crl").write_bytes(revocation_list(ROOT, begin=now - 2 * DAY, end=now - DAY))
    file = public_directory / "handshaked.toml"
    file.write_text(
        f'[server]\ntrust = "{public_directory}/ca.pem"\nrevocation_lists = ["{public_directory}/ca.crl"]\n'
    )
    words = "[server] the revocation list of CN=root has been out of date since"
    with RunningDaemon(public_directory, workers=1, options=(f"--configuration={file}",)) as running:
        running.wait_until(lambda: any(one.startswith(words) for one in running.ask("status")["warnings"]))
        running.wait_until(lambda: words in running.log.read_text())
        (public_directory / "ca.crl").write_bytes(revocation_list(ROOT, begin=now - DAY, end=now + DAY))
        assert running.ask("reload")["errors"] == []
        assert running.ask("status")["warnings"] == []
        running.wait_until(lambda: f"no longer: {words}" in running.log.read_text())


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return Authority(tmp_path).issue("www.example.com")


def test_check_config_looks_at_settings_and_registrations(tmp_path: Path, issued: Issued) -> None:
    settings, drop_in = tmp_path / "handshaked.toml", tmp_path / "registrations.d/web.toml"
    arguments = (settings, f"--configuration-directory={tmp_path}")
    drop_in.parent.mkdir()
    settings.write_text(f'[server]\ncertificate = "{issued.certificate}"\nprivate_key = "{issued.key}"\n')
    web = f'[registration.web]\nalpns = ["h3"]\ncertificate = "{issued.certificate}"\nkey = "{issued.key}"\n'
    drop_in.write_text(web)
    assert check(*arguments) == (0, "")
    drop_in.write_text(web.replace("alpns", "alpn") + "[registration.other]\n")
    assert check(*arguments) == (
        1,
        f"handshaked: {drop_in}:2: unknown key 'alpn'\n"
        f"handshaked: {drop_in}:5: certificate and key are missing: only registrations with deliver=forward need"
        " none\n",
    )
    settings.write_text("[colours]\n")
    status, said = check(*arguments)
    assert (status, said.partition(";")[0]) == (1, f"handshaked: {settings}:1: unknown table or setting 'colours'")
    settings.write_text(f'[client]\ntrust = "{tmp_path}/nowhere.pem"\n')
    assert check(*arguments) == (1, f"handshaked: [client] {tmp_path}/nowhere.pem: {os.strerror(2)}\n")
