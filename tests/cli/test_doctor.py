"""``doctor``: findings and their fixes."""

import json
import subprocess
from pathlib import Path

import pytest

from handshaked.cli.doctor import examine_units
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.cli.commands import NAME, PROGRAM, run


@pytest.fixture
def daemon(own_daemon: RunningDaemon) -> RunningDaemon:
    """A daemon that tests may break."""
    return own_daemon


def test_doctor_finds_no_fault_in_a_healthy_daemon(daemon: RunningDaemon, web: Authority) -> None:
    findings = json.loads(run(daemon, "doctor", "--json"))["findings"]
    assert not [finding for finding in findings if finding["level"] == "fault"]
    assert any("self-test passes" in finding["what"] for finding in findings)
    assert all(finding["fix"] for finding in findings if finding["level"] != "ok")


def test_doctor_reports_faults_with_fixes(daemon: RunningDaemon, web: Authority, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}-ecdsa-p256.key").unlink()
    run(daemon, "reload", status=1)
    daemon.handshake_socket.chmod(0o600)
    findings = json.loads(run(daemon, "doctor", "--json", status=1))["findings"]
    [fault] = [finding for finding in findings if finding["level"] == "fault"]
    assert "No such file" in fault["what"]
    assert "handshakectl reload" in fault["fix"]
    assert any("not every user can connect" in finding["what"] for finding in findings)


def test_doctor_reports_a_missing_daemon(tmp_path: Path) -> None:
    command = [str(PROGRAM), "doctor", f"--socket={tmp_path}/control.sock"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert process.returncode == 1
    assert "cannot reach the daemon" in process.stdout
    assert "systemctl start handshaked.socket" in process.stdout


@pytest.mark.parametrize(
    ("service", "unit"),
    [
        ("handshaked.service", "handshaked-netlink.socket"),
        ("handshaked-demux.service", "handshaked-demux-sockets.socket"),
    ],
)
def test_doctor_reports_a_service_that_runs_without_its_sockets(service: str, unit: str) -> None:
    def levels(*active: str) -> list[str]:
        answers = {("is-active", one): "active" for one in active} | {("is-enabled", service): "enabled"}
        findings = examine_units(lambda *asked: answers.get(asked, "inactive"))
        return [finding.level for finding in findings if unit in finding.what and service in finding.fix]

    assert levels(service) == ["warning"]
    assert levels(service, unit) == levels() == []
