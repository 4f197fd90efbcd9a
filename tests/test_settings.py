"""Every row of the table of settings is known to every part that takes, keeps, shows or documents settings."""

import ast
import asyncio
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from handshaked.cli.completion import script
from handshaked.cli.manual import page, reference
from handshaked.cli.output import group_name, user_name
from handshaked.cli.parser import SHELLS, command_line
from handshaked.cli.reference import bus_reference, settings_reference
from handshaked.cli.registrations import register_request, shown_fields
from handshaked.control.bus.interface import MANAGER_INTERFACE, introspection, object_path
from handshaked.control.bus.objects import BusObjects, Interfaces
from handshaked.control.files.drop_ins import read_drop_ins
from handshaked.control.manager import Manager
from handshaked.control.registry_feed import RegistryFeed
from handshaked.control.requests.arguments import Arguments
from handshaked.model import Caller
from handshaked.registry.settings import ACCESS, POLICY, SCOPE, SETTINGS, TRUST, Policy, Setting
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.sqlite_reader import SqliteRegistryReader
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import NewRegistration
from handshaked.testing.authority import Authority, Issued
from tests.certificates import revocation_list
from tests.patience import run_program
from tests.setting_samples import sample
from tests.tls.x509.chains import ROOT as CRL_ISSUER

CHECKOUT = Path(__file__).parents[1]
ROOT = Caller(0)
settings = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


@dataclass(frozen=True)
class Scene:
    """A registration with a sample of every setting, made by ``handshakectl register``, everywhere it is seen."""

    samples: dict[str, Any]
    shown: dict[str, Any]
    stored: Policy
    objects: Interfaces
    followed: dict[str, Any]
    drop_in: Policy


def words(setting: Setting, value: Any) -> list[str]:
    """Return the words of a command line that give `setting` the `value`."""
    match value:
        case bool():
            return [setting.flag]
        case list():
            return [word for one in value for word in (setting.flag, one)]
    return [setting.flag, str(value)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Register with the words of a command line, and look at everything that knows of the registration."""
    directory = tmp_path_factory.mktemp("settings")
    authority = Authority(directory)
    issued = authority.issue("a.example.com", "b.example.com")
    (directory / "client_ca").write_bytes(authority.root.read_bytes())
    (directory / "client_crl").write_bytes(revocation_list(CRL_ISSUER))
    samples = {setting.name: sample(setting, directory) for setting in SETTINGS}
    manager = Manager(SqliteRegistryWriter(directory / "registry.db"), _publish, directory)
    _register(manager, samples, issued)
    objects = BusObjects(manager, dict)
    objects.begin(manager.snapshot)
    feed = RegistryFeed(manager.snapshot, frozenset({ROOT.uid}))
    [followed] = asyncio.run(feed.follow(ROOT, Arguments({"follower": "one"})))["registrations"]
    [stored] = SqliteRegistryReader(directory / "registry.db").load().registrations
    return Scene(
        samples,
        manager.show(ROOT, Arguments({"name": "web"}))["registration"],
        stored.policy,
        objects.interfaces(object_path("web")),
        followed,
        _drop_in(directory / "registrations.d", samples, issued).policy,
    )


def _register(manager: Manager, samples: dict[str, Any], issued: Issued) -> None:
    asked = [word for setting in SETTINGS for word in words(setting, samples[setting.name])]
    line = ["register", "web", f"--cert={issued.certificate}", f"--key={issued.key}", *asked]
    message, paths = register_request(command_line().parse_args(line))
    with ExitStack() as files:
        descriptors = tuple(files.enter_context(open(path, "rb")).fileno() for path in paths)
        asyncio.run(manager.register(ROOT, Arguments(json.loads(json.dumps(message))), descriptors))


def _drop_in(directory: Path, samples: dict[str, Any], issued: Issued) -> NewRegistration:
    keys = {setting.key: samples[setting.name] for setting in SETTINGS}
    keys |= {"certificate": str(issued.certificate), "key": str(issued.key)}
    directory.mkdir()
    toml = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    (directory / "web.toml").write_text(f"[registration.web]\n{toml}")
    found = read_drop_ins(directory)
    assert found.problems == []
    return found.wanted["web"][0]


async def _publish(snapshot: Snapshot) -> None:
    """Nobody follows."""


def plain(setting: Setting, value: Any) -> Any:
    """Return `value` as it is shown: users and groups by number."""
    return [int(one) for one in value] if setting in ACCESS[:2] else value


@settings
def test_setting_is_shown_as_it_was_given(setting: Setting, scene: Scene) -> None:
    shown = {**scene.shown, **scene.shown["policy"]}
    assert shown[setting.name] == plain(setting, scene.samples[setting.name]) != setting.type.show(setting.default)


@settings
def test_show_prints_setting(setting: Setting, scene: Scene) -> None:
    printed = shown_fields(scene.shown)
    value = plain(setting, scene.samples[setting.name])
    if setting in ACCESS:
        name = {"allow_users": user_name, "allow_groups": group_name}.get(setting.name)
        assert (name(value[0]) if name else "kernel") in printed["may use it"]
    else:
        assert printed[setting.label] == setting.words(value)


@settings
def test_setting_is_a_property_on_the_bus(setting: Setting, scene: Scene) -> None:
    [properties] = scene.objects.values()
    value = plain(setting, scene.samples[setting.name])
    assert properties[setting.bus_property] == (setting.type.shown_signature, value)
    assert f'<property name="{setting.bus_property}"' in introspection()


@settings
def test_register_on_the_bus_names_setting(setting: Setting) -> None:
    method = MANAGER_INTERFACE.method("Register")
    assert method is not None
    assert f"{setting.name} ({setting.type.signature})" in method.description


@pytest.mark.parametrize("setting", POLICY, ids=lambda setting: setting.name)
def test_setting_survives_the_store_and_a_drop_in(setting: Setting, scene: Scene) -> None:
    for policy in (scene.stored, scene.drop_in):
        assert setting.type.show(getattr(policy, setting.name)) == scene.samples[setting.name]


@pytest.mark.parametrize("setting", [one for one in POLICY if one.read_by == "demux"], ids=lambda setting: setting.name)
def test_demultiplexer_receives_setting(setting: Setting, scene: Scene) -> None:
    assert scene.followed[setting.name] == scene.samples[setting.name]


@cache
def _manual(name: str) -> str:
    return page(name)


@settings
def test_setting_is_completed_and_documented(setting: Setting) -> None:
    for shell in SHELLS:
        assert (f"-l {setting.flag[2:]}" if shell == "fish" else setting.flag) in script(shell, command_line())
    assert setting.flag.replace("-", "\\-") in _manual("handshakectl.1")
    assert f".B {setting.key}".replace("-", "\\-") in _manual("registrations.d.5")
    assert f"`{setting.flag}" in reference()
    assert f"| `{setting.key}` | `{setting.flag}` | `{setting.bus_property}` |" in settings_reference()
    assert f"`{setting.bus_property}: {setting.type.shown_signature}`" in bus_reference()


def test_every_setting_has_a_reader() -> None:
    for setting in POLICY:
        room = CHECKOUT / "handshaked" / setting.read_by
        names = {
            node.attr
            for path in room.rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        assert setting.name in names, f"nothing in {room} obeys {setting.name}"


def test_table_is_complete() -> None:
    assert (*SCOPE, *POLICY, *TRUST) == SETTINGS
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS) >= 15


def test_new_setting_needs_a_row_and_nothing_else() -> None:
    """Run this file with one more row in the table. Only the code that obeys it is missing."""
    selection = "not test_new_setting and not test_every_setting_has_a_reader"
    said = run_program(
        sys.executable, "-m", "pytest", "-v", "-p", "tests.plugins.one_more_setting", "-p", "no:cacheprovider",
        "-p", "no:tests.plugins.leftovers",
        "-k", selection, __file__, cwd=CHECKOUT,
    ).stdout  # fmt: skip
    assert said.count("colour_of_shed] PASSED") == 7
