"""Free ports are used by nobody, neither for UDP nor for TCP."""

import socket

import pytest

from handshaked.testing import ports
from handshaked.testing.ports import free_port


def test_ports_in_use_are_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = free_port()
    monkeypatch.setattr(ports, "_PORTS", range(taken, taken + 1))
    assert free_port() == taken
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind(("127.0.0.1", taken))
            with pytest.raises(RuntimeError, match=f"no port from {taken} to {taken} is free"):
                free_port()
