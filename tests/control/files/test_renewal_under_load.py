"""Renewals do not affect handshakes in flight: 10,000 handshakes while the certificate is replaced 100 times."""

import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from handshaked.shim import BlockingClient
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.control.handshakes import handshake, verifier
from tests.patience import join

NAME = "www.example.com"


def put(issued: Issued, certificate: Path, key: Path) -> None:
    """Copy `issued` to the paths `certificate` and `key`, as a renewal does."""
    key.write_bytes(issued.key.read_bytes())
    key.chmod(0o600)
    certificate.write_bytes(issued.certificate.read_bytes())


@pytest.mark.slow
def test_no_handshake_fails_while_certificates_are_replaced(public_directory: Path, tmp_path: Path) -> None:
    """Each client verifies the chain, and with CertificateVerify that key and certificate match."""
    authority = Authority(tmp_path)
    issued = [authority.issue(NAME, file_name=f"v{number}") for number in range(100)]
    live = public_directory / "live"
    live.mkdir()
    certificate, key = live / "fullchain.pem", live / "privkey.pem"
    put(issued[0], certificate, key)
    leaves: set[bytes] = set()
    with RunningDaemon(public_directory, workers=2, log_level="error") as daemon:
        daemon.register("web", (certificate, key), alpns=["h3"], server_names=[NAME])
        done = threading.Event()
        stale: list[int] = []

        def replace() -> None:
            for number in (*range(1, 100), 0):
                put(issued[number], certificate, key)
                daemon.ask("reload")
                [credential] = daemon.ask("show", name="web")["registration"]["credentials"]
                if credential["sha256"] != issued[number].leaf.fingerprint(hashes.SHA256()).hex():
                    stale.append(number)
            done.set()

        replacing = threading.Thread(target=replace, daemon=True)
        replacing.start()
        verify = verifier(authority.root)
        count = 0
        with BlockingClient(daemon.handshake_socket) as one, BlockingClient(daemon.handshake_socket) as other:
            while count < 10_000 or not done.is_set():
                outcome, leaf = handshake((one, other)[count % 2], NAME, b"h3", verify)
                assert outcome.status == 0, outcome
                leaves.add(leaf)
                count += 1
        join(replacing)
        assert stale == []
        assert daemon.ask("status")["handshakes"]["failed"] == 0
    assert len(leaves) > 10
