"""Objects added, removed and changed between two snapshots; read from the store only on demand."""

from pathlib import Path

import pytest

from handshaked.control.bus.interface import REGISTRATION_INTERFACE, object_path
from handshaked.control.bus.objects import BusObjects
from handshaked.control.manager import Manager
from handshaked.registry.credentials import load_pem
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import NewRegistration, Source
from handshaked.testing.authority import Authority


class Scene:
    """A store with registrations, and their objects."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        issued = Authority(directory).issue("a.test")
        self._credential = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
        self.store = SqliteRegistryWriter(directory / "handshaked.db")
        self.register("one", "two")
        self.read: list[str] = []
        self.manager = Manager(self.store, self._publish, directory)
        shown = self.manager.shown

        def note(registration: Registration) -> dict:
            self.read.append(registration.name)
            return shown(registration)

        monkeypatch.setattr(self.manager, "shown", note)
        self.objects = BusObjects(self.manager, dict)

    def register(self, *names: str, alpn: bytes = b"h3") -> None:
        for name in names:
            new = NewRegistration(
                name=name,
                owner=0,
                server_names=(f"{name}.test",),
                alpns=(alpn,),
                credentials=((self._credential, Source("", "")),),
            )
            gone = [name] if self.store.load().named(name) else []
            self.store.exchange(gone, [new])

    async def _publish(self, snapshot: Snapshot) -> None:
        """Nobody follows."""


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_registrations_are_read_on_demand(scene: Scene) -> None:
    scene.objects.begin(scene.store.load())
    assert not scene.read
    scene.objects.interfaces(object_path("one"))
    assert scene.read == ["one"]


def test_only_differences_between_snapshots_are_reported(scene: Scene) -> None:
    snapshot = scene.store.load()
    scene.objects.begin(snapshot)
    scene.register("three")
    scene.register("one", alpn=b"smb")
    scene.store.exchange(["two"], [])
    added, gone, changed = scene.objects.follow(scene.store.refresh(snapshot))
    assert list(added) == [object_path("three")]
    assert gone == [object_path("two")]
    assert list(changed) == [object_path("one")]
    assert changed[object_path("one")]["Alpns"] == ("as", ["smb"])
    assert sorted(scene.read) == ["one", "three"]
    assert set(added[object_path("three")]) == {REGISTRATION_INTERFACE.name}
