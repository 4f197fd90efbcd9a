"""Changes are noticed however files are replaced: in place, by a rename, by swapping a link anywhere on the path."""

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.control.files.readers import Readers
from handshaked.control.files.watch import MAX_EVENTS, MAX_VISITED_BY_USER, Watch, steps
from tests.patience import soon


def certbot(root: Path) -> tuple[Path, Callable[[], object]]:
    """live/NAME/privkey.pem -> ../../archive/NAME/privkey1.pem."""
    live, archive = root / "live/www", root / "archive/www"
    live.mkdir(parents=True)
    archive.mkdir(parents=True)
    (archive / "privkey1.pem").write_text("1")
    (live / "privkey.pem").symlink_to("../../archive/www/privkey1.pem")

    def renew() -> None:
        (archive / "privkey2.pem").write_text("2")
        (live / "privkey.pem").unlink()
        (live / "privkey.pem").symlink_to("../../archive/www/privkey2.pem")

    return live / "privkey.pem", renew


def kubernetes(root: Path) -> tuple[Path, Callable[[], object]]:
    """tls.key -> ..data/tls.key, ..data -> ..1; a rename swaps ..data."""
    (root / "..1").mkdir()
    (root / "..1/tls.key").write_text("1")
    (root / "..data").symlink_to("..1")
    (root / "tls.key").symlink_to("..data/tls.key")

    def renew() -> None:
        (root / "..2").mkdir()
        (root / "..2/tls.key").write_text("2")
        (root / "..data_tmp").symlink_to("..2")
        (root / "..data_tmp").rename(root / "..data")
        shutil.rmtree(root / "..1")

    return root / "tls.key", renew


def acme_sh(root: Path) -> tuple[Path, Callable[[], object]]:
    """The file is overwritten in place."""
    (root / "key").write_text("1")
    return root / "key", lambda: (root / "key").write_text("2")


def renamed(root: Path) -> tuple[Path, Callable[[], object]]:
    """A new file is renamed over the old one."""
    (root / "key").write_text("1")

    def renew() -> None:
        (root / "new").write_text("2")
        (root / "new").rename(root / "key")

    return root / "key", renew


def linked_directory(root: Path) -> tuple[Path, Callable[[], object]]:
    """A directory on the path is a link."""
    for name in ("v1", "v2"):
        (root / name).mkdir()
        (root / name / "key").write_text(name)
    (root / "current").symlink_to(root / "v1")

    def renew() -> None:
        (root / "next").symlink_to(root / "v2")
        (root / "next").rename(root / "current")

    return root / "current/key", renew


def not_there(root: Path) -> tuple[Path, Callable[[], object]]:
    """The file is created later, with its directory."""

    def renew() -> None:
        (root / "later").mkdir()
        (root / "later/key").write_text("1")

    return root / "later/key", renew


LAYOUTS = [certbot, kubernetes, acme_sh, renamed, linked_directory, not_there]


class Scene:
    """A watch for files of the user who runs the tests."""

    def __init__(self, quiet: float = 0.01) -> None:
        self.problems: list[str] = []
        self._told: asyncio.Queue[set[str]] = asyncio.Queue()
        self.watch = Watch(self._told.put_nowait, quiet, Readers(), lambda words, _: self.problems.append(words))

    async def follow(self, *paths: Path | str, owner: int | None = None) -> None:
        """Watch `paths`, and wait until they are watched."""
        user = os.geteuid() if owner is None else owner
        left = self.watch.follow({str(path): user for path in paths})
        while left:
            left -= await self.changed()

    async def changed(self) -> set[str]:
        """Return the files that are reported next."""
        return await soon(self._told.get())

    def drain(self) -> None:
        while not self._told.empty():
            self._told.get_nowait()


def play(scenario: Callable[[Scene], Coroutine[Any, Any, None]], quiet: float = 0.01) -> None:
    async def run() -> None:
        scene = Scene(quiet)
        try:
            await scenario(scene)
        finally:
            scene.watch.close()

    asyncio.run(run())


def assert_noticed(path: Path | str, act: Callable[[], object]) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.follow(path)
        act()
        assert await scene.changed() == {str(path)}

    play(scenario)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_renewal_is_noticed(tmp_path: Path, layout: Callable[[Path], tuple[Path, Callable[[], object]]]) -> None:
    path, renew = layout(tmp_path)
    assert_noticed(path, renew)


@pytest.mark.parametrize("layout", [certbot, kubernetes, linked_directory])
def test_new_path_is_watched(tmp_path: Path, layout: Callable[[Path], tuple[Path, Callable[[], object]]]) -> None:
    path, renew = layout(tmp_path)

    async def twice(scene: Scene) -> None:
        await scene.follow(path)
        renew()
        await scene.changed()
        scene.drain()
        path.resolve().write_text("once more")
        assert await scene.changed() == {str(path)}

    play(twice)


def test_only_followed_files_are_reported(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("1")

    async def scenario(scene: Scene) -> None:
        await scene.follow(tmp_path / "one", tmp_path / "two")
        await scene.follow(tmp_path / "two")
        (tmp_path / "one").write_text("2")
        (tmp_path / "other").write_text("2")
        (tmp_path / "two").write_text("2")
        assert await scene.changed() == {str(tmp_path / "two")}

    play(scenario)


def test_every_entry_of_a_followed_directory_is_reported(tmp_path: Path) -> None:
    path = f"{tmp_path}/d/"
    (tmp_path / "d").mkdir()
    assert_noticed(path, (tmp_path / "d/new").touch)


def test_directory_moved_away_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    path = tmp_path / "d/key"
    path.write_text("1")
    assert_noticed(path, lambda: (tmp_path / "d").rename(tmp_path / "e"))


def test_directory_that_cannot_be_watched_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def scenario(scene: Scene) -> None:
        await scene.follow(f"{tmp_path}/file/key")
        assert scene.problems == []  # the file itself is watched: it may become a directory

    play(scenario)


def test_files_that_change_without_end_are_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After MAX_EVENTS, each directory has one more, and those that the kernel had queued already."""
    files = [tmp_path / name / "key" for name in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        file.write_text("1")
    read, events = os.read, [0]

    def count(descriptor: int, size: int) -> bytes:
        content = read(descriptor, size)
        events[0] += content.count(b"key\0")
        return content

    async def scenario(scene: Scene) -> None:
        await scene.follow(*files)
        for _ in range(MAX_EVENTS):
            for file in files:
                os.utime(file)  # the kernel does not report an event again that is the last in its queue
            for _ in range(3):
                await asyncio.sleep(0)

    monkeypatch.setattr(os, "read", count)
    play(scenario, quiet=60.0)
    assert MAX_EVENTS < events[0] < MAX_EVENTS + 100


def test_last_of_many_changes_is_noticed(tmp_path: Path) -> None:
    """Changes may be noticed late, but none is lost: afterwards, files are watched as before."""
    files = [tmp_path / name / "key" for name in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        file.write_text("1")

    async def scenario(scene: Scene) -> None:
        await scene.follow(*files)
        for number in range(3 * MAX_EVENTS):
            for file in files:
                file.write_text(str(number))
            await asyncio.sleep(0)
        left = set(map(str, files))
        for file in files:
            file.write_text("last")
        scene.drain()
        while left:
            left -= await scene.changed()
        for file in files:
            scene.drain()
            file.write_text("once more")
            while str(file) not in await scene.changed():
                pass

    play(scenario)


def chains(directory: Path, count: int, links: int = 39) -> list[Path]:
    """Return paths of as many chains of links, each of which leads back and forth as often as its length allows."""
    (directory / "d").mkdir()
    detour = "d/../" * 700
    for number in range(count):
        (directory / f"{number}.0").write_text("end")
        for link in range(1, links + 1):
            (directory / f"{number}.{link}").symlink_to(f"{detour}{number}.{link - 1}")
    return [directory / f"{number}.{links}" for number in range(count)]


def test_chains_of_links_are_resolved_in_a_thread_and_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 paths of a user with 39 links of 3,500 bytes each would mean half a million directories."""
    paths = chains(tmp_path, 20)
    (tmp_path / "plain").write_text("1")
    readlink, visited, threads = os.readlink, [0], set()

    def count(path: str) -> str:
        visited[0] += 1
        threads.add(threading.current_thread())
        return readlink(path)

    async def scenario(scene: Scene) -> None:
        await scene.follow(*paths, owner=12345)
        assert scene.problems == ["uid 12345: not all files are watched: too many links are on their paths"]
        assert visited[0] <= MAX_VISITED_BY_USER
        await scene.follow(*paths, tmp_path / "plain")
        (tmp_path / "plain").write_text("2")
        assert await scene.changed() == {str(tmp_path / "plain")}

    monkeypatch.setattr(os, "readlink", count)
    play(scenario)
    assert threading.main_thread() not in threads


def test_parts_of_a_path_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = chains(tmp_path, 1, links=1)[0]
    readlink, looked_up = os.readlink, []

    def count(path: str) -> str:
        looked_up.append(path)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", count)
    assert [name for _, name in steps(str(path), iter(range(5000)))] == [b"0.1", b"0.0"]
    assert sorted(looked_up) == sorted({*looked_up})
    assert str(tmp_path / "d") in looked_up


def test_going_back_counts_as_a_visit() -> None:
    visits = iter(range(1000))
    steps("/" + "../" * 2000 + "etc/passwd", visits)
    assert next(visits, None) is None


def test_link_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert len(steps(str(tmp_path / "a"), iter(range(1000)))) < 100


@given(st.lists(st.sampled_from(["..", ".", "x", "", "usr", "etc", "passwd"]), max_size=8))
def test_last_step_is_the_file(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    found = steps(path, iter(range(1000)))
    if os.path.isfile(path) and not path.endswith("/"):
        directory, name = found[-1]
        assert os.path.samefile(os.path.join(os.fsencode(directory), name), path)
