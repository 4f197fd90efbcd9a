"""A renewal that loses a server name is refused while the old certificate is valid, or accepted with a warning."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256

from handshaked.registry.credentials import load_pem
from handshaked.registry.registration import Registration
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import NewRegistration, Source
from handshaked.system.directories import DATABASE
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.cli.commands import run

NAMES = ["a.example.com", "b.example.com"]
LOST = "the certificate CN=a.example.com does not cover b.example.com"


def served(daemon: RunningDaemon) -> str:
    return str(daemon.ask("show", name="web")["registration"]["credentials"][0]["sha256"])


def digest(issued: Issued) -> str:
    return issued.leaf.fingerprint(SHA256()).hex()


def put(issued: Issued, files: tuple[Path, Path]) -> None:
    for path, source in zip(files, (issued.key, issued.certificate), strict=True):
        path.touch(mode=0o600)
        path.write_bytes(source.read_bytes())


def told(daemon: RunningDaemon, status: int) -> list[str]:
    """Return what the commands that have to say it print, and the log."""
    return [
        run(daemon, "status", status=status),
        run(daemon, "list"),
        run(daemon, "show", "web"),
        run(daemon, "doctor", status=status),
        daemon.log.read_text(),
    ]


def test_renewal_that_loses_a_name_is_refused_and_reported(
    daemon: RunningDaemon, own_authority: Authority, tmp_path: Path
) -> None:
    key, certificate = files = tmp_path / "key.pem", tmp_path / "cert.pem"
    old = own_authority.issue(*NAMES, file_name="old")
    put(old, files)
    daemon.register("web", (certificate, key), alpns=["h3"], server_names=NAMES)
    put(own_authority.issue(NAMES[0], file_name="new"), files)
    daemon.wait_until(lambda: any(LOST in one for one in daemon.ask("status")["problems"]))
    assert served(daemon) == digest(old)
    assert all(LOST in said for said in told(daemon, status=1))
    complete = own_authority.issue(*NAMES, file_name="complete")
    put(complete, files)
    daemon.wait_until(lambda: served(daemon) == digest(complete))
    daemon.wait_until(lambda: not daemon.ask("status")["problems"])
    assert LOST not in run(daemon, "list")


def test_renewal_that_loses_a_name_can_be_accepted_and_is_still_reported(
    daemon: RunningDaemon, own_authority: Authority, tmp_path: Path
) -> None:
    key, certificate = files = tmp_path / "key.pem", tmp_path / "cert.pem"
    put(own_authority.issue(*NAMES, file_name="old"), files)
    daemon.register("web", (certificate, key), alpns=["h3"], server_names=NAMES, lost_names="accept")
    new = own_authority.issue(NAMES[0], file_name="new")
    put(new, files)
    daemon.wait_until(lambda: served(daemon) == digest(new))
    daemon.wait_until(lambda: LOST in daemon.log.read_text())
    assert all(LOST in said for said in told(daemon, status=0))
    assert json.loads(run(daemon, "list", "--json"))["registrations"][0]["warnings"]


def test_drop_in_follows_the_same_rule(daemon: RunningDaemon, own_authority: Authority, tmp_path: Path) -> None:
    key, certificate = files = tmp_path / "key.pem", tmp_path / "cert.pem"
    old = own_authority.issue(*NAMES, file_name="old")
    put(old, files)
    drop_in = daemon.drop_ins / "web.toml"
    text = (
        f'[registration.web]\nserver-names = {json.dumps(NAMES)}\nalpns = ["h3"]\n'
        f'certificate = "{certificate}"\nkey = "{key}"\n'
    )
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(text)
    daemon.wait_until(lambda: daemon.ask("list")["registrations"])
    new = own_authority.issue(NAMES[0], file_name="new")
    put(new, files)
    daemon.wait_until(lambda: any(LOST in one for one in daemon.ask("status")["problems"]))
    assert len(daemon.ask("reload")["errors"]) == 1
    assert served(daemon) == digest(old)
    drop_in.write_text(text.replace(', "b.example.com"', ""))
    daemon.wait_until(lambda: served(daemon) == digest(new))
    daemon.wait_until(lambda: not daemon.ask("status")["problems"])


def test_expired_certificate_is_replaced_whatever_the_new_one_covers(
    public_directory: Path, own_authority: Authority, tmp_path: Path
) -> None:
    key, certificate = files = tmp_path / "key.pem", tmp_path / "cert.pem"
    put(own_authority.issue(*NAMES, file_name="old", valid=(-2, -1)), files)
    loaded = load_pem(certificate.read_bytes(), key.read_bytes())
    source = Source(str(certificate), str(key))
    _register(
        public_directory / "state" / DATABASE,
        NewRegistration("web", os.geteuid(), tuple(NAMES), (b"h3",), ((loaded, source),)),
    )
    new = own_authority.issue(NAMES[0], file_name="new")
    put(new, files)
    with RunningDaemon(public_directory, workers=1) as daemon:
        daemon.wait_until(lambda: served(daemon) == digest(new))
        daemon.wait_until(lambda: LOST in run(daemon, "list"))


def _register(path: Path, new: NewRegistration) -> Registration:
    store = SqliteRegistryWriter(path)
    try:
        return store.register(new)
    finally:
        store.close()
