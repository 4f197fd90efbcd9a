"""Renewed files are loaded without a command, only as matching pairs; drop-ins are added, changed and removed."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from handshaked.registry.sqlite_reader import SqliteRegistryReader
from handshaked.system.directories import DATABASE
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.certificates import client, crl_pem, revocation_list
from tests.tls.x509.chains import ROOT

NAME = "www.example.com"
DROP_IN = """\
[registration.{name}]
server-names = ["{server_name}"]
alpns = ["h3"]
certificate = "{issued.certificate}"
key = "{issued.key}"
"""


def served(daemon: RunningDaemon, name: str = "web") -> str:
    """Return the SHA-256 digest of the registered certificate."""
    return str(daemon.ask("show", name=name)["registration"]["credentials"][0]["sha256"])


def digest(issued: Issued) -> str:
    return issued.leaf.fingerprint(SHA256()).hex()


class Layout:
    """The places where a renewal tool keeps the files ``certificate`` and ``key``, and its way to replace them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.certificate, self.key = root / "fullchain.pem", root / "privkey.pem"
        self.number = 0

    def put(self, issued: Issued) -> None:
        """Replace the files with those of `issued`."""
        raise NotImplementedError


class InPlace(Layout):
    """acme.sh --install-cert: files are overwritten in place, one after the other."""

    def put(self, issued: Issued) -> None:
        self.root.mkdir(exist_ok=True)
        self.key.write_bytes(issued.key.read_bytes())
        self.key.chmod(0o600)
        self.certificate.write_bytes(issued.certificate.read_bytes())


class Certbot(Layout):
    """live/NAME/*.pem are links into archive/NAME, replaced one after the other."""

    def put(self, issued: Issued) -> None:
        self.number += 1
        archive = self.root / "archive"
        archive.mkdir(parents=True, exist_ok=True)
        for link, source in ((self.key, issued.key), (self.certificate, issued.certificate)):
            target = archive / f"{link.stem}{self.number}.pem"
            target.touch(mode=0o600)
            target.write_bytes(source.read_bytes())
            link.unlink(missing_ok=True)
            link.symlink_to(f"archive/{target.name}")


class CertManager(Layout):
    """A Kubernetes secret: ..data is a link that a rename swaps, both files at once."""

    def put(self, issued: Issued) -> None:
        self.number += 1
        version = self.root / f"..{self.number}"
        version.mkdir(parents=True)
        for link, source in ((self.key, issued.key), (self.certificate, issued.certificate)):
            (version / link.name).touch(mode=0o600)
            (version / link.name).write_bytes(source.read_bytes())
            if not link.is_symlink():
                link.symlink_to(f"..data/{link.name}")
        (self.root / "..data_tmp").symlink_to(version.name)
        (self.root / "..data_tmp").rename(self.root / "..data")


@pytest.mark.parametrize("layout", [InPlace, Certbot, CertManager])
def test_renewal_is_loaded_without_a_command(
    daemon: RunningDaemon, own_authority: Authority, tmp_path: Path, layout: Callable[[Path], Layout]
) -> None:
    files = layout(tmp_path / "live")
    first, *later = (own_authority.issue(NAME, file_name=f"v{number}") for number in range(3))
    files.put(first)
    daemon.register("web", (files.certificate, files.key), alpns=["h3"], server_names=[NAME])
    assert served(daemon) == digest(first)
    for issued in later:
        files.put(issued)
        daemon.wait_until(lambda issued=issued: served(daemon) == digest(issued))  # type: ignore[misc] # bound now


def test_key_without_its_certificate_is_a_problem_until_the_certificate_comes(
    daemon: RunningDaemon, own_authority: Authority, tmp_path: Path
) -> None:
    files = InPlace(tmp_path / "live")
    old, new = own_authority.issue(NAME, file_name="old"), own_authority.issue(NAME, file_name="new")
    files.put(old)
    daemon.register("web", (files.certificate, files.key), alpns=["h3"])
    files.key.write_bytes(new.key.read_bytes())
    daemon.wait_until(lambda: any("does not match" in one for one in daemon.ask("status")["problems"]))
    [problem] = daemon.ask("status")["problems"]
    assert "the old credential stays" in problem
    assert served(daemon) == digest(old)
    files.certificate.write_bytes(new.certificate.read_bytes())
    daemon.wait_until(lambda: served(daemon) == digest(new))
    assert daemon.ask("status")["problems"] == []
    daemon.wait_until(lambda: "fixed: web" in daemon.log.read_text())


def test_new_intermediate_for_the_same_leaf_is_a_renewal(
    daemon: RunningDaemon, own_authority: Authority, tmp_path: Path
) -> None:
    files = InPlace(tmp_path / "live")
    issued = own_authority.issue(NAME)
    files.put(issued)
    daemon.register("web", (files.certificate, files.key), alpns=["h3"])
    files.certificate.write_bytes(issued.certificate.read_bytes() + own_authority.root.read_bytes())
    daemon.wait_until(lambda: "renewed the credentials of web" in daemon.log.read_text())


def test_renewal_while_the_daemon_was_stopped_is_loaded_at_start(
    public_directory: Path, own_authority: Authority, tmp_path: Path
) -> None:
    files = InPlace(tmp_path / "live")
    old, new = own_authority.issue(NAME, file_name="old"), own_authority.issue(NAME, file_name="new")
    files.put(old)
    with RunningDaemon(public_directory, workers=1) as daemon:
        daemon.register("web", (files.certificate, files.key), alpns=["h3"])
    files.put(new)
    with RunningDaemon(public_directory, workers=1) as daemon:
        daemon.wait_until(lambda: served(daemon) == digest(new))


@pytest.mark.needs("root")
def test_link_to_the_key_of_another_user_is_refused(
    daemon: RunningDaemon, own_authority: Authority, tmp_path: Path
) -> None:
    mine, other = own_authority.issue(NAME, file_name="mine"), own_authority.issue(NAME, file_name="other")
    drop_in(daemon, "app", mine, owner="bin")
    for path in (mine.certificate, mine.key):
        os.chown(path, 2, 2)
    daemon.wait_until(lambda: any(one["name"] == "app" for one in daemon.ask("list")["registrations"]))
    for path, target in ((mine.certificate, other.certificate), (mine.key, other.key)):
        path.unlink()
        path.symlink_to(target)
    daemon.wait_until(lambda: any("belongs to another user" in one for one in daemon.ask("status")["problems"]))
    assert served(daemon, "app") == digest(mine)


def drop_in(
    daemon: RunningDaemon, name: str, issued: Issued, server_name: str = NAME, owner: str = "", more: str = ""
) -> Path:
    """Write a drop-in file."""
    daemon.drop_ins.mkdir(parents=True, exist_ok=True)
    path = daemon.drop_ins / f"{name}.toml"
    text = (
        DROP_IN.format(name=name, server_name=server_name, issued=issued)
        + (f'owner = "{owner}"\n' if owner else "")
        + more
    )
    replace(path, text)
    return path


def replace(path: Path, text: str) -> None:
    """Write a drop-in file atomically: the daemon, which follows it, must not read it while it is empty."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(path)


def names(daemon: RunningDaemon) -> list[str]:
    return [one["name"] for one in daemon.ask("list")["registrations"]]


@pytest.mark.needs("root")
def test_trust_anchors_the_owner_cannot_read_are_refused(
    daemon: RunningDaemon, own_authority: Authority, tmp_path: Path
) -> None:
    issued, root = own_authority.issue(NAME), tmp_path / "root.pem"
    root.write_bytes(own_authority.root.read_bytes())
    for path in (issued.certificate, issued.key, root):
        os.chown(path, 2, 2)
    drop_in(daemon, "app", issued, owner="bin", more=f'client-auth = "request"\nclient-ca = "{root}"\n')
    assert daemon.ask("reload")["errors"] == []
    os.chown(root, 0, 0)
    root.chmod(0o600)
    assert any("belongs to another user" in error for error in daemon.ask("reload")["errors"])
    root.chmod(0o644)
    assert daemon.ask("reload")["errors"] == []


def test_trust_anchors_are_found_in_the_credentials_directory(
    public_directory: Path, own_authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    shutil.copy(own_authority.root, tmp_path / "ca.pem")
    with RunningDaemon(public_directory, workers=1) as daemon:
        trust = 'client-auth = "request"\nclient-ca = "$CREDENTIALS_DIRECTORY/ca.pem"\n'
        drop_in(daemon, "web", own_authority.issue(NAME), more=trust)
        assert daemon.ask("reload")["errors"] == []


def test_unreadable_revocation_list_leaves_the_last_one_in_force(
    daemon: RunningDaemon, own_authority: Authority, tmp_path: Path
) -> None:
    lists = tmp_path / "list.crl"
    lists.write_bytes(crl_pem(revocation_list(ROOT)))
    trust = f'client-auth = "require"\nclient-ca = "{own_authority.root}"\nclient-crl = "{lists}"\n'
    drop_in(daemon, "web", own_authority.issue(NAME), more=trust)
    assert daemon.ask("reload")["errors"] == []
    renewed = revocation_list(ROOT, [client(ROOT)])
    lists.write_bytes(renewed)  # in DER now
    assert daemon.ask("reload")["errors"] == []
    assert stored_lists(daemon) == renewed
    for content in (b"", renewed[:-1], crl_pem(renewed)[:-9]):
        lists.write_bytes(content)
        errors = daemon.ask("reload")["errors"]  # of the drop-in, and of the registration that came from it
        assert errors
        assert all(str(lists) in error for error in errors)
        assert stored_lists(daemon) == renewed
    lists.write_bytes(crl_pem(renewed))
    assert daemon.ask("reload")["errors"] == []
    assert stored_lists(daemon) == crl_pem(renewed)


def stored_lists(daemon: RunningDaemon) -> bytes:
    """Return the revocation lists of the registration that workers use."""
    with closing(SqliteRegistryReader(daemon.state_directory / DATABASE)) as registry:
        [registration] = [one for one in registry.load().registrations if not one.internal]
        return registry.trust(registration.policy.client_trust).revocations


def test_drop_ins_are_added_changed_and_removed(daemon: RunningDaemon, own_authority: Authority) -> None:
    issued = own_authority.issue(NAME, "other.example.com")
    path = drop_in(daemon, "web", issued)
    daemon.wait_until(lambda: names(daemon) == ["web"])
    shown = daemon.ask("show", name="web")["registration"]
    assert (shown["origin"], shown["server_names"]) == (str(path), [NAME])
    drop_in(daemon, "web", issued, "other.example.com")
    daemon.wait_until(lambda: daemon.ask("show", name="web")["registration"]["server_names"] == ["other.example.com"])
    path.unlink()
    daemon.wait_until(lambda: names(daemon) == [])


def test_drop_ins_are_loaded_when_the_daemon_is_ready(public_directory: Path, own_authority: Authority) -> None:
    daemon = RunningDaemon(public_directory, workers=1)
    issued = own_authority.issue(NAME)
    for number in range(200):
        drop_in(daemon, f"r{number}", issued, f"r{number}.example.com")
    with daemon:
        daemon.wait_until(lambda: "is ready, " in daemon.log.read_text())
        assert "is ready, 200 registrations" in daemon.log.read_text()


def test_registration_moves_between_drop_ins(daemon: RunningDaemon, own_authority: Authority) -> None:
    issued = own_authority.issue(NAME)
    one = drop_in(daemon, "one", issued)
    daemon.wait_until(lambda: names(daemon) == ["one"])
    drop_in(daemon, "two", issued)
    one.unlink()
    daemon.ask("reload")
    assert names(daemon) == ["two"]


def test_bad_drop_in_leaves_its_registrations_in_use(daemon: RunningDaemon, own_authority: Authority) -> None:
    issued = own_authority.issue(NAME)
    path = drop_in(daemon, "web", issued)
    daemon.ask("reload")
    replace(path, path.read_text().replace('alpns = ["h3"]', 'alpns = ["h3", ""]'))
    errors = daemon.ask("reload")["errors"]
    assert errors == [f"{path}:3: an ALPN protocol of 0 bytes: use 1 to 255"]
    replace(path, "not = [toml")
    assert daemon.ask("reload")["errors"][0].startswith(f"{path}:1: ")
    assert names(daemon) == ["web"]
    drop_in(daemon, "web", issued)
    assert daemon.ask("reload")["errors"] == []


def test_conflict_with_a_registration_names_it(daemon: RunningDaemon, own_authority: Authority) -> None:
    issued = own_authority.issue(NAME)
    daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
    same_name, same_pair = drop_in(daemon, "web", issued), drop_in(daemon, "pair", issued)
    good = drop_in(daemon, "good", issued, "good.example.com")
    errors = daemon.ask("reload")["errors"]
    assert sorted(error.partition(": ")[0] for error in errors) == sorted([f"{same_name}:1", f"{same_pair}:1"])
    assert any("held by registration 'web'" in error for error in errors)
    assert names(daemon) == ["good", "web"]
    assert good.exists()


def test_commands_cannot_change_drop_ins(daemon: RunningDaemon, own_authority: Authority) -> None:
    issued = own_authority.issue(NAME)
    path = drop_in(daemon, "web", issued)
    daemon.ask("reload")
    for change in (
        lambda: daemon.ask("unregister", name="web"),
        lambda: daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], replace=True),
    ):
        with pytest.raises(Exception, match=f"is defined in {path}"):
            change()


def test_credentials_directory_is_used(public_directory: Path, own_authority: Authority, tmp_path: Path) -> None:
    """With LoadCredential=, the directory has another name at each start of the service."""
    issued = own_authority.issue(NAME, file_name="web")
    os.environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    try:
        with RunningDaemon(public_directory, workers=1) as daemon:
            daemon.drop_ins.mkdir(parents=True)
            prefixed = Issued(
                Path("$CREDENTIALS_DIRECTORY/web.pem"), Path("$CREDENTIALS_DIRECTORY/web.key"), issued.leaf
            )
            drop_in(daemon, "web", prefixed)
            assert daemon.ask("reload")["errors"] == []
            assert served(daemon) == digest(issued)
    finally:
        del os.environ["CREDENTIALS_DIRECTORY"]


def test_fifo_in_place_of_a_key_is_refused(daemon: RunningDaemon, own_authority: Authority, tmp_path: Path) -> None:
    files = InPlace(tmp_path / "live")
    old, new = own_authority.issue(NAME, file_name="old"), own_authority.issue(NAME, file_name="new")
    files.put(old)
    daemon.register("web", (files.certificate, files.key), alpns=["h3"])
    files.key.unlink()
    os.mkfifo(files.key, 0o600)
    writer = os.open(files.key, os.O_RDWR)
    try:
        errors = daemon.ask("reload")["errors"]
        assert errors == [f"web: {files.key}: not a regular file; the old credential stays in use"]
    finally:
        os.close(writer)
    files.key.unlink()
    files.put(new)
    daemon.wait_until(lambda: served(daemon) == digest(new))
