"""The command line of the demultiplexer."""

import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handshaked.demux.main import main
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server
from tests.demux.clients import Target, served
from tests.demux.conftest import DEMUX_USER, FIRST_USER
from tests.patience import PATIENCE, run_program
from tests.signal_storm import signal_storm


def test_error_names_the_port_in_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        options = (f"--listen=127.0.0.1:{port}", f"--socket={tmp_path}/sock")
        run = run_program(sys.executable, "-m", "handshaked.demux.main", *options, check=False)
    assert run.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in run.stderr


@pytest.mark.parametrize("activated", [False, True], ids=["own sockets", "inherited sockets"])
@pytest.mark.parametrize("shared", ["socket", "port"])
def test_second_demultiplexer_takes_nothing_over(
    public_directory: Path,
    demux_daemon: RunningDaemon,
    register: Callable[..., None],
    authority: Authority,
    activated: bool,
    shared: str,
) -> None:
    register("first", "first.example.com", "smb", user=FIRST_USER)
    with RunningDemux(public_directory, demux_daemon, user=DEMUX_USER, activated=activated) as demux:
        options = {
            "socket": (f"--socket={demux.socket}", "--listen=127.0.0.1:0"),
            "port": (f"--socket={public_directory}/second/accept.sock", f"--listen=127.0.0.1:{demux.port}"),
        }[shared]
        second = run_program(
            sys.executable, "-m", "handshaked.demux.main", f"--control={demux_daemon.control_socket}", *options,
            check=False,
        )  # fmt: skip
        assert second.returncode == 1, second.stderr
        expected = "Address already in use" if shared == "port" else f"at {demux.socket}"
        assert expected in second.stderr
        with smb_server(demux_daemon, demux, "first", user=FIRST_USER):
            assert served(Target(demux.port, authority.root), "first.example.com", "smb")[0] == "first"


@pytest.mark.parametrize("activated", [False, True], ids=["own sockets", "inherited sockets"])
def test_demultiplexer_ends_when_its_socket_is_removed_and_makes_a_new_one(
    public_directory: Path, demux_daemon: RunningDaemon, activated: bool
) -> None:
    with RunningDemux(public_directory, demux_daemon, user=DEMUX_USER, activated=activated) as demux:
        for _ in range(2):  # also in place of its own stale socket
            demux.socket.unlink()
            assert demux.exit_status() == 1
            assert f"cannot run: {demux.socket} was removed or replaced" in demux.log.read_text()
            demux.log.unlink()
            demux.start()
        assert demux.metrics()["registry_connected"] == 1


def test_event_loop_notifies_the_watchdog(
    public_directory: Path, demux_daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "15000000")
    with (
        RunningDemux(public_directory, demux_daemon, user=DEMUX_USER) as demux,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        path = demux.socket.parent / "notify"
        path.unlink()
        systemd.bind(str(path))
        path.chmod(0o666)
        systemd.settimeout(PATIENCE)
        assert [systemd.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2


def run_main(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """Run the program in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["handshaked-demux", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_status_prints_the_counters(
    demux: RunningDemux, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--status", f"--socket={demux.socket}") == 0
    counters = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines() if not line.startswith("#"))
    assert counters
    assert all(float(value) >= 0 for value in counters.values())


def test_status_without_a_demultiplexer_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--status", f"--socket={tmp_path}/none.sock") == 1
    assert f"cannot connect to {tmp_path}/none.sock" in capsys.readouterr().err


def test_invalid_address_to_listen_on_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--listen=192.0.2.1") == 2
    assert "--listen" in capsys.readouterr().err


def test_more_signals_do_not_kill_a_demultiplexer_that_ends(
    public_directory: Path, demux_daemon: RunningDaemon
) -> None:
    with (
        RunningDemux(public_directory, demux_daemon) as demux,
        signal_storm(demux.pid, signal.SIGTERM, signal.SIGINT),
    ):
        assert demux.exit_status() == 0
