"""When the machine fails, the daemon reports it clearly, keeps running without a busy loop, and recovers by itself."""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.control.client import ControlClient
from handshaked.errors import RefusedError
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue
from tests.patience import PATIENCE, join, run_program

NAME = "www.example.com"


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Mount a file system of two megabytes at `directory`."""
    directory.mkdir()
    run_program("mount", "-t", "tmpfs", "-o", "size=2m,mode=0755", "tmpfs", str(directory))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True, timeout=PATIENCE)


def fill(path: Path) -> None:
    """Fill the file system of `path`."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def leave_no_descriptors(pid: int) -> tuple[int, int]:
    """Set the descriptor limit of the process so low that it cannot open any more; return the old limit."""
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, old[1]))
    return old


def times_slept(pid: int) -> int:
    """Return the number of voluntary context switches: a busy loop makes none."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def register_many(daemon: RunningDaemon, pair: tuple[Path, Path]) -> None:
    """Register more than fits into the free space of the database file."""
    for number in range(200):
        daemon.register(f"r{number}", pair, alpns=[f"a{number}"])


@pytest.mark.needs("root")
def test_full_disk_only_prevents_changes(public_directory: Path, issue: Issue) -> None:
    issued = issue(NAME)
    directory = public_directory / "disk"
    with small_disk(directory), RunningDaemon(directory, workers=1) as daemon:
        pair = (issued.certificate, issued.key)
        daemon.register("before", pair, alpns=["h3"])
        log_size = daemon.log.stat().st_size
        filler = daemon.state_directory / "filler"
        fill(filler)
        with pytest.raises(RefusedError, match=r"full.*nothing was changed: free some disk space"):
            register_many(daemon, pair)
        status = daemon.ask("status")
        kept = [one["name"] for one in daemon.ask("list")["registrations"]]
        assert status["self_test"] == "ok"
        assert daemon.ask("explain", alpns=["h3"])["registration"] == "before"
        filler.unlink()
        daemon.register("after", pair, alpns=["after"])
        assert [one["name"] for one in daemon.ask("list")["registrations"]] == sorted([*kept, "after"])
        assert daemon.ask("status")["pid"] == status["pid"]
        assert daemon.log.stat().st_size - log_size < 100_000


def test_daemon_waits_for_free_descriptors_without_a_busy_loop(public_directory: Path, issue: Issue) -> None:
    with RunningDaemon(public_directory, workers=1) as daemon:
        pid = daemon.pid
        daemon.register("web", (issue(NAME).certificate, issue(NAME).key), alpns=["h3"])
        old = leave_no_descriptors(pid)
        answers: list[object] = []
        with ControlClient(daemon.control_socket) as client:
            asking = threading.Thread(target=lambda: answers.append(client.ask("list", {})), daemon=True)
            asking.start()
            daemon.wait_until(lambda: "cannot accept connections" in daemon.log.read_text())
            before = times_slept(pid)
            daemon.wait_until(lambda: times_slept(pid) >= before + 10)
            assert asking.is_alive()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
            asking.join(20)
        assert len(answers) == 1
        daemon.wait_until(lambda: "accepted again" in daemon.log.read_text())
        assert daemon.log.read_text().count("cannot accept connections") == 1
        assert daemon.pid == pid


def test_worker_start_is_retried(public_directory: Path) -> None:
    with RunningDaemon(public_directory, workers=1) as daemon:
        pid = daemon.pid
        [worker] = daemon.worker_pids()
        old = leave_no_descriptors(pid)
        os.kill(worker, signal.SIGKILL)
        daemon.wait_until(lambda: "a worker cannot be started" in daemon.log.read_text())
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
        daemon.wait_until(lambda: daemon.worker_pids() not in ([], [worker]))
        assert daemon.pid == pid


@pytest.mark.needs("root", "setpriv")
def test_unreadable_directory_is_reported_and_read_when_readable(public_directory: Path, authority: Authority) -> None:
    # without these capabilities, root is subject to file permissions
    launcher = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
    issued = authority.issue(NAME, file_name="unreadable")
    with RunningDaemon(public_directory, workers=1, launcher=launcher) as daemon:
        live = public_directory / "live"
        live.mkdir()
        drop_ins = daemon.drop_ins
        drop_ins.mkdir(parents=True)
        (drop_ins / "a.toml").write_text(
            f'[registration.web]\nalpns = ["h3"]\ncertificate = "{live}/c"\nkey = "{live}/k"\n'
        )
        shutil.copy(issued.certificate, live / "c")
        shutil.copy(issued.key, live / "k")
        assert daemon.ask("reload")["errors"] == []
        for directory in (live, drop_ins):
            os.chown(directory, 12345, 12345)
            directory.chmod(0o700)
        errors = daemon.ask("reload")["errors"]
        assert any(str(drop_ins) in error and "Permission denied" in error for error in errors)
        assert any("/live/" in error and "Permission denied" in error for error in errors)
        assert [one["name"] for one in daemon.ask("list")["registrations"]] == ["web"]
        assert daemon.ask("status")["self_test"] == "ok"
        for directory in (live, drop_ins):
            directory.chmod(0o755)
        assert daemon.ask("reload")["errors"] == []


def test_certificate_not_yet_valid_is_refused_with_its_date(shared_daemon: RunningDaemon, authority: Authority) -> None:
    """As with a clock that is a day behind: what is issued now is not valid yet."""
    early = authority.issue(NAME, valid=(1, 90), file_name="early")
    with pytest.raises(RefusedError, match="is not valid before"):
        shared_daemon.register("early", (early.certificate, early.key), alpns=["early"])


def test_renewal_not_yet_valid_is_a_problem_until_replaced(public_directory: Path, authority: Authority) -> None:
    now, later = authority.issue(NAME, file_name="now"), authority.issue(NAME, valid=(1, 90), file_name="later")
    valid = authority.issue(NAME, file_name="valid")
    certificate, key = public_directory / "c", public_directory / "k"

    def put(issued: Issued) -> None:
        shutil.copy(issued.key, key)
        shutil.copy(issued.certificate, certificate)

    put(now)
    with RunningDaemon(public_directory, workers=1) as daemon:
        daemon.register("web", (certificate, key), alpns=["h3"])
        put(later)
        daemon.wait_until(lambda: any("not valid before" in one for one in daemon.ask("status")["problems"]))
        put(valid)
        daemon.wait_until(lambda: daemon.ask("status")["problems"] == [])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))  # in parts that run side by side: each starts 50 daemons
def test_registry_is_consistent_after_sigkill_at_any_instant(
    public_directory: Path, authority: Authority, seed: int
) -> None:
    """SIGKILL while a registration is replaced, 50 times: the registry is whole, and no older than acknowledged."""
    issued = [authority.issue(NAME, file_name=f"kill-{seed}-{number}") for number in range(2)]
    random = Random(seed)
    database = public_directory / "state" / "registry.db"
    acknowledged = -1
    for _ in range(50):
        with RunningDaemon(public_directory, workers=1, log_level="error") as daemon:
            killer = threading.Timer(random.uniform(0, 0.02), os.kill, (daemon.pid, signal.SIGKILL))
            killer.start()
            asked = acknowledged
            try:
                while True:
                    asked += 1
                    one = issued[asked % 2]
                    daemon.register("web", (one.certificate, one.key), alpns=[f"a{asked}", f"b{asked}"], replace=True)
                    acknowledged = asked
            except RefusedError:
                pass
            join(killer)
        db = sqlite3.connect(database)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        db.close()
        store = SqliteRegistryWriter(database)
        registration = store.load().named("web")
        if registration is None:
            assert acknowledged == -1
        else:
            number = int(registration.alpns[0][1:])
            assert number in (acknowledged, asked)
            [details] = store.details(registration)
            assert registration.alpns == (f"a{number}".encode(), f"b{number}".encode())
            assert details.source.certificate == str(issued[number % 2].certificate)
            assert store.credential(details.reference.id).chain[0] == issued[number % 2].leaf.public_bytes(Encoding.DER)
            acknowledged = number
        store.close()
    assert acknowledged > 0
