"""The key log: only if enabled, only to a file that nobody else can read, and with a warning."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from handshaked.errors import RefusedError
from handshaked.system.keylog_file import KeyLogFile
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.family import push_crypto, push_start
from handshaked.wire.messages import Acknowledged
from tests.conftest import Issue
from tests.handshake_channel import HandshakeChannel, client_hello, client_start, secrets_of, server_start

NAME = "a.example.com"


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for line in ("one", "two"):
        file = KeyLogFile(path)
        file.write(line)
        file.close()
    assert path.read_text() == "one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600


def readable(path: Path) -> None:
    path.touch(mode=0o600)
    path.chmod(0o640)


def linked(path: Path) -> None:
    (path.parent / "other").touch(mode=0o600)
    path.symlink_to("other")


@pytest.mark.parametrize("make", [readable, linked, os.mkfifo, Path.mkdir])
def test_file_that_others_can_access_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "keys"
    make(path)
    with pytest.raises(RefusedError, match=rf"keylog: (cannot write to )?{path}"):
        KeyLogFile(path)


def daemon_with(settings: str, directory: Path) -> RunningDaemon:
    configuration = directory / "handshaked.toml"
    configuration.write_text(settings)
    return RunningDaemon(directory, options=("--no-kernel", f"--configuration={configuration}"))


def test_daemon_logs_the_secrets_of_both_roles_if_enabled(public_directory: Path, issue: Issue) -> None:
    issued = issue(NAME)
    path = public_directory / "keys"
    with daemon_with(f'[log]\nkeylog = "{path}"\n', public_directory) as daemon:
        daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
        with HandshakeChannel(daemon.handshake_socket) as channel:
            hello = client_hello(channel, 1, client_start(NAME, b"h3"))
            channel.send(push_start(2, server_start()), push_crypto(2, hello, ack=True))
            secrets = [each.secret for each in secrets_of(channel.until(2, Acknowledged))]
        log = daemon.log.read_text()
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    assert len(secrets) == 3
    assert {secret.hex() for secret in secrets} < {line[2] for line in lines if line[1] == hello.data[6:38].hex()}
    assert f"THE SECRETS OF ALL CONNECTIONS ARE WRITTEN TO {path}" in log


def test_daemon_does_not_start_without_its_key_log(public_directory: Path) -> None:
    with pytest.raises(RuntimeError, match="keylog: cannot write to /nowhere/keys"):
        daemon_with('[log]\nkeylog = "/nowhere/keys"\n', public_directory).start()
