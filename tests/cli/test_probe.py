"""``test``: a real handshake with a registration."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.cli.commands import run
from tests.patience import PATIENCE

SERVER = """
import asyncio, sys
from pathlib import Path
from aioquic.quic.configuration import QuicConfiguration
from handshaked.shim.aioquic import serve
from handshaked.shim import HandshakeClient

async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    client = HandshakeClient(Path(sys.argv[1]))
    server = await serve("127.0.0.1", 0, configuration=configuration, client=client)
    print(server._transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

OTHER_SERVER = """
import asyncio, sys
from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration

async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    configuration.load_cert_chain(sys.argv[1], sys.argv[2])
    server = await serve("127.0.0.1", 0, configuration=configuration)
    print(server._transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_test_does_a_real_handshake(daemon: RunningDaemon, web: Authority) -> None:
    said = run(daemon, "test", "web", "--ca", str(web.root))
    assert said.splitlines()[-1] == "ok"
    result = json.loads(run(daemon, "test", "web", "--ca", str(web.root), "--json"))
    assert (result["done"], result["registered"], result["verified"]) == (True, True, True)


def test_a_server_that_does_not_answer_is_reported(daemon: RunningDaemon, web: Authority) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        said = run(daemon, "test", "web", "--connect", address, "--timeout=0.5", status=1)
    assert f"handshake:      failed: {address}: no answer\nnot ok\n" in said
    assert "exception" not in said


def test_a_missing_ca_file_is_reported(daemon: RunningDaemon, web: Authority) -> None:
    for words in ((), ("--connect=127.0.0.1:1", "--transport=tcp"), ("--connect=127.0.0.1:1",)):
        said = run(daemon, "test", "web", "--ca=/nowhere", *words, status=1)
        assert said == "handshakectl: /nowhere: No such file or directory\n"


def test_test_reports_what_clients_would_refuse(daemon: RunningDaemon, web: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "another CA")
    said = run(daemon, "test", "web", "--ca", str(other.root), status=1)
    assert "handshake:      completed" in said
    assert "verified:       no: " in said
    assert "no registration serves" in run(daemon, "test", "web", "--server-name", "other.example.org", status=1)
    assert "no registration 'nothing'" in run(daemon, "test", "nothing", status=1)


def test_test_connects_to_a_server(daemon: RunningDaemon, web: Authority) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(daemon.handshake_socket)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        port = server.stdout.readline().strip()
        said = run(daemon, "test", "web", "--ca", str(web.root), "--connect", f"127.0.0.1:{port}")
        assert "registered as web" in said
        assert said.splitlines()[-1] == "ok"
    finally:
        server.kill()
        server.communicate(timeout=PATIENCE)


def test_forwarded_registration_is_tested_with_its_server(
    daemon: RunningDaemon, authority: Authority, issue: Callable[..., Issued]
) -> None:
    """The server's own certificate is what clients see; the registration needs none, and has another one here."""
    name = "forwarded.example.com"
    issued, other = issue(name), issue("other.example.com")
    server = subprocess.Popen(
        [sys.executable, "-c", OTHER_SERVER, str(issued.certificate), str(issued.key)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        address = f"127.0.0.1:{server.stdout.readline().strip()}"
        forward = {"server_names": [name], "deliver": f"forward {address}"}
        daemon.register("bare", alpns=["h3"], **forward)
        daemon.register("both", (other.certificate, other.key), alpns=["h2"], **forward)
        daemon.register("proxied", alpns=["h1"], proxy_protocol=True, **forward)
        for words in ((), ("--connect", address)):
            said = run(daemon, "test", "bare", "--ca", str(authority.root), *words)
            assert "of the server that connections are forwarded to" in said
            assert said.splitlines()[-1] == "ok"
        assert "PROXY protocol" in run(daemon, "test", "proxied", "--ca", str(authority.root), status=1)
        for alpn in ("h3", "h2"):
            explained = run(daemon, "explain", "--server-name", name, "--alpn", alpn)
            assert f"forward {address} (certificate of that server)" in explained
            answer = json.loads(run(daemon, "explain", "--server-name", name, "--alpn", alpn, "--json"))
            assert (answer["deliver"], "certificate" in answer) == (f"forward {address}", False)
            assert [one["chosen"] for one in answer["candidates"]].count(True) == 1
    finally:
        server.kill()
        server.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("transport", ["quic", "tcp"])
def test_a_damaged_ca_file_is_refused(daemon: RunningDaemon, web: Authority, tmp_path: Path, transport: str) -> None:
    """Each way to connect reads the file with the same reader."""
    good = web.root.read_text()
    damaged = tmp_path / "ca.pem"
    damaged.write_text(good + good.replace("-----END", "----END"))
    words = ("--connect=127.0.0.1:1", f"--transport={transport}")
    assert f"handshakectl: {damaged}" in run(daemon, "test", "web", f"--ca={damaged}", *words, status=1)


def test_a_certificate_of_ca_that_cannot_be_used_is_left_out_and_named_once(
    daemon: RunningDaemon, web: Authority, tmp_path: Path
) -> None:
    good = web.root.read_text()
    mixed = tmp_path / "ca.pem"
    mixed.write_text(good.replace("\nMII", "\n?MII") + good)
    said = run(daemon, "test", "web", f"--ca={mixed}")
    assert said.count(f"warning: left out: {mixed}: line 1: ") == 1
