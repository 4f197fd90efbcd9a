"""Changes are noticed however files are replaced: in place, by a rename, by swapping a link anywhere on the path."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.control.files.watch import Watch, steps


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


async def changed(watch_for: Callable[[Watch], object], act: Callable[[], object]) -> set[str]:
    """Return the files that a watch reports when `act` is called."""
    found: asyncio.Future[set[str]] = asyncio.get_running_loop().create_future()

    def tell(paths: set[str]) -> None:
        if not found.done():
            found.set_result(paths)

    watch = Watch(tell, 0.01)
    try:
        watch_for(watch)
        act()
        return await asyncio.wait_for(found, 20)
    finally:
        watch.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_renewal_is_noticed(tmp_path: Path, layout: Callable[[Path], tuple[Path, Callable[[], object]]]) -> None:
    path, renew = layout(tmp_path)
    assert asyncio.run(changed(lambda watch: watch.follow({str(path)}), renew)) == {str(path)}


@pytest.mark.parametrize("layout", [certbot, kubernetes, linked_directory])
def test_new_path_is_watched(tmp_path: Path, layout: Callable[[Path], tuple[Path, Callable[[], object]]]) -> None:
    path, renew = layout(tmp_path)
    told: asyncio.Queue[set[str]] = asyncio.Queue()

    async def twice() -> None:
        watch = Watch(told.put_nowait, 0.01)
        watch.follow({str(path)})
        renew()
        await asyncio.wait_for(told.get(), 20)
        while not told.empty():
            told.get_nowait()
        path.resolve().write_text("once more")
        assert await asyncio.wait_for(told.get(), 20) == {str(path)}
        watch.close()

    asyncio.run(twice())


def test_only_followed_files_are_reported(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("1")

    def follow(watch: Watch) -> None:
        watch.follow({str(tmp_path / "one"), str(tmp_path / "two")})
        watch.follow({str(tmp_path / "two")})

    def act() -> None:
        (tmp_path / "one").write_text("2")
        (tmp_path / "other").write_text("2")
        (tmp_path / "two").write_text("2")

    assert asyncio.run(changed(follow, act)) == {str(tmp_path / "two")}


def test_every_entry_of_a_followed_directory_is_reported(tmp_path: Path) -> None:
    path = f"{tmp_path}/d/"
    (tmp_path / "d").mkdir()
    assert asyncio.run(changed(lambda watch: watch.follow({path}), (tmp_path / "d/new").touch)) == {path}


def test_directory_moved_away_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    path = tmp_path / "d/key"
    path.write_text("1")
    moved = changed(lambda watch: watch.follow({str(path)}), lambda: (tmp_path / "d").rename(tmp_path / "e"))
    assert asyncio.run(moved) == {str(path)}


def test_directory_that_cannot_be_watched_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def follow() -> list[str]:
        watch = Watch(lambda paths: None, 0.01)
        try:
            return watch.follow({f"{tmp_path}/file/key"})
        finally:
            watch.close()

    assert asyncio.run(follow()) == []  # the file itself is watched: it may become a directory


def test_link_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert len(steps(str(tmp_path / "a"))) < 100


@given(st.lists(st.sampled_from(["..", ".", "x", "", "usr", "etc", "passwd"]), max_size=8))
def test_last_step_is_the_file(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    found = steps(path)
    if os.path.isfile(path) and not path.endswith("/"):
        directory, name = found[-1]
        assert os.path.samefile(os.path.join(os.fsencode(directory), name), path)
