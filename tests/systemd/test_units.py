"""The files for systemd, D-Bus and polkit: systemd verifies them, and rates the exposure of the services."""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from configparser import ConfigParser
from pathlib import Path

import pytest

from handshaked.cli.install import contents
from handshaked.control.bus.dispatch import POLKIT_DETAILS
from handshaked.control.bus.interface import MANAGER_INTERFACE, REGISTRATION_INTERFACE
from handshaked.system.listening import BACKLOG
from tests.patience import PATIENCE, run_program
from tests.plugins.needs import need

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = sorted(path.name for path in SYSTEMD.glob("handshaked*") if path.suffix in (".service", ".socket"))

EXPOSURE = {
    "handshaked.service": 0.8,
    "handshaked-demux.service": 0.4,
    "handshaked-demux-sockets.service": 1.3,  # of which 0.9 are its purpose: the network, with the right to bind ports
}

BOUNDS = {
    "MemoryMax", "MemorySwapMax", "TasksMax", "LogRateLimitBurst", "LogRateLimitIntervalSec", "WatchdogSec",
    "LimitNOFILE",
}  # fmt: skip


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Install the units with existing programs. Return their directory."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("handshaked", "handshakectl", "handshaked-demux"):
        shutil.copy("/bin/true", programs / name)
    for path, content in contents(programs).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    return tmp_path / "usr/local/lib/systemd/system"


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_verifies_unit_without_warning(installed: Path, unit: str) -> None:
    process = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(installed / unit)],
        capture_output=True, text=True, check=False, timeout=PATIENCE)  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("service", [unit for unit in UNITS if unit.endswith(".service")])
def test_exposure_level_is_low(installed: Path, service: str) -> None:
    process = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", str(installed / service)],
        capture_output=True, text=True, check=False, timeout=PATIENCE)  # fmt: skip
    found = re.search(rf"Overall exposure level for {re.escape(service)}: ([0-9.]+)", process.stdout)
    assert found, process.stderr
    assert float(found[1]) <= EXPOSURE[service]
    assert process.returncode == 0


def sections(unit: str) -> ConfigParser:
    """Parse a unit; of a repeated setting, such as ``Before=``, the parser keeps the last line."""
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the parser's way to keep upper case
    parser.read(SYSTEMD / unit)
    return parser


@pytest.mark.parametrize("service", [unit for unit in UNITS if unit.endswith(".service")])
def test_resources_of_services_are_bounded(service: str) -> None:
    settings = sections(service)["Service"]
    assert settings.keys() >= BOUNDS
    assert settings["MemorySwapMax"] == "0", "keys and secrets stay out of swap space"


@pytest.mark.parametrize("unit", ["handshaked.socket", "handshaked-demux.socket"])
def test_queue_of_sockets_for_any_user_is_as_long_as_without_systemd(unit: str) -> None:
    assert f"\nBacklog={BACKLOG}\n" in (SYSTEMD / unit).read_text()


def test_daemon_starts_before_remote_file_systems_are_mounted() -> None:
    """As tlshd, with what ``DefaultDependencies=no`` leaves to the unit; ``test_boot`` shows the effect."""
    lines = (SYSTEMD / "handshaked.service").read_text().splitlines()
    assert {
        "DefaultDependencies=no",
        "Before=remote-fs-pre.target",
        "Requires=sysinit.target",
        "Conflicts=shutdown.target",
        "Before=shutdown.target",
    } <= set(lines)
    unit = sections("handshaked.service")
    assert "remote-fs-pre.target" in unit["Unit"]["Wants"].split(), "a passive target: somebody has to pull it in"
    assert "sysinit.target" in unit["Unit"]["After"].split()
    assert "remote-fs.target" in unit["Install"]["WantedBy"].split()


def users_of(unit: str) -> set[str]:
    """Return the users that `unit` names."""
    return {section[name] for section in sections(unit).values() for name in ("User", "SocketUser") if name in section}


@pytest.mark.parametrize("kind", ["sysusers", "tmpfiles"])
def test_users_and_directories_are_created(tmp_path: Path, kind: str) -> None:
    program = f"systemd-{kind}"
    need(program, *(["root"] if kind == "tmpfiles" else []))  # tmpfiles changes owners
    for name in ("etc", "var/lib"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("passwd", "group"):
        (tmp_path / "etc" / name).write_text("root:x:0:0::/root:/bin/sh\n" if name == "passwd" else "root:x:0:\n")
    create = ["--create"] if kind == "tmpfiles" else []
    run_program(program, f"--root={tmp_path}", *create, str(SYSTEMD / f"{kind}.conf"))
    if kind == "sysusers":
        users = {line.partition(":")[0] for line in (tmp_path / "etc/passwd").read_text().splitlines()}
        assert users == {"root"}.union(*map(users_of, UNITS))
    else:
        assert (tmp_path / "etc/handshaked/registrations.d").is_dir()


def test_bus_policy_allows_only_existing_methods() -> None:
    policy = ElementTree.parse(SYSTEMD / "org.handshaked.Handshaked1.conf")  # noqa: S314 - our own file
    default = next(one for one in policy.iter("policy") if one.get("context") == "default")
    for interface in (MANAGER_INTERFACE, REGISTRATION_INTERFACE):
        allowed = {
            rule.get("send_member") for rule in default.iter("allow") if rule.get("send_interface") == interface.name
        }
        assert None not in allowed
        assert allowed <= {method.name for method in interface.methods}
    assert [rule.attrib for rule in default.iter("deny")][1] == {"send_destination": "org.handshaked.Handshaked1"}


def test_bus_policy_admits_method_calls_only_and_files_only_where_they_are_taken() -> None:
    policy = ElementTree.parse(SYSTEMD / "org.handshaked.Handshaked1.conf")  # noqa: S314 - our own file
    sending = [rule for rule in policy.iter("allow") if rule.get("send_destination") is not None]
    assert {rule.get("send_type") for rule in sending} == {"method_call"}
    with_files = {rule.get("send_member") for rule in sending if rule.get("max_fds") != "0"}
    takers = {method.name for one in (MANAGER_INTERFACE, REGISTRATION_INTERFACE) for method in one.methods
              if method.takes_files}  # fmt: skip
    assert with_files == takers | {None}  # None: root may call everything


def test_polkit_dialogs_show_details_that_the_daemon_tells() -> None:
    policy = ElementTree.parse(SYSTEMD / "org.handshaked.policy")  # noqa: S314 - our own file
    for action in policy.iter("action"):
        named = set(re.findall(r"\$\(([a-z_]+)\)", action.findtext("message", "")))
        assert named <= set(POLKIT_DETAILS)
        assert named or action.get("id") in ("org.handshaked.reload", "org.handshaked.grant")
        keeps = action.findtext("defaults/allow_active") == "auth_admin_keep"
        assert not (keeps and named), "an authorization that is kept also covers calls that its dialog has not shown"
        assert action.findtext("annotate[@key='org.freedesktop.policykit.owner']") == "unix-user:handshaked"


def test_polkit_policy_has_every_action() -> None:
    policy = ElementTree.parse(SYSTEMD / "org.handshaked.policy")  # noqa: S314 - our own file
    known = {action.get("id") for action in policy.iter("action")}
    asked = {method.action for one in (MANAGER_INTERFACE, REGISTRATION_INTERFACE) for method in one.methods}
    assert known == asked - {None}
    assert {one.text for one in policy.iter("allow_any")} == {"auth_admin"}
