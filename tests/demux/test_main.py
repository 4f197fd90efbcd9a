"""The command line of the demultiplexer."""

import socket
import sys
from pathlib import Path

from tests.patience import run_program


def test_error_names_the_port_in_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        options = (f"--listen=127.0.0.1:{port}", f"--socket={tmp_path}/sock")
        run = run_program(sys.executable, "-m", "handshaked.demux.main", *options, check=False)
    assert run.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in run.stderr
