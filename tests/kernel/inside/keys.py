"""Features that User-Mode Linux (6.12) lacks: keys for NFS from a keyring, and record size limits of kTLS.

``xprtsec=mtls`` takes the client's certificate and key from the keyring ``.nfs`` (mount options cert_serial and
privkey_serial, Linux 7.3).
"""

import socket
import subprocess
import time

from handshaked.datapath.ktls import capabilities, offload
from handshaked.registry.credentials import load_pem, open_credential
from handshaked.testing.authority import Issued
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientParameters, ServerParameters
from handshaked.tls.record import MAX_INNER
from handshaked.tls.server import ServerHandshake
from handshaked.tls.stream import ClientStream, ServerStream
from tests.kernel.inside.scene import (
    authority,
    daemon,
    logged,
    mount,
    mounted,
    must,
    refused,
    serve_nfs,
    serving,
    write_and_read,
)

SOON = 8  # seconds


def der(issued: Issued) -> tuple[bytes, bytes]:
    """Return certificate and key as they are stored in keyrings."""
    return (
        subprocess.check_output(["openssl", "x509", "-in", issued.certificate, "-outform", "DER"]),
        subprocess.check_output(["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", issued.key, "-outform", "DER"]),
    )


def add(name: str, payload: bytes, keyring: str) -> int:
    """Add a key to `keyring`. Return its serial."""
    return int(subprocess.check_output(["keyctl", "padd", "user", name, keyring], input=payload))


def serials(name: str, certificate: bytes, key: bytes, keyring: str) -> str:
    """Add keys with these payloads to `keyring`. Return the mount options that name them."""
    return (
        f",cert_serial={add(f'{name} certificate', certificate, keyring)}"
        f",privkey_serial={add(f'{name} key', key, keyring)}"
    )


def records_sent(issued: Issued, count: int, *, record_size_limit: int) -> list[int]:
    """Send `count` bytes with kTLS to a peer with `record_size_limit`. Return the payload size of each record."""
    loaded = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
    answer = ServerParameters(
        credential=open_credential(loaded.chain, loaded.key, loaded.key_type),
        alpn=None,
        transport_parameters=None,
        record_size_limit=MAX_INNER,
    )
    asked = ClientParameters(
        alpns=(), server_name="server.test", transport_parameters=None, verifier=None,
        record_size_limit=record_size_limit,
    )  # fmt: skip
    theirs = ClientStream(ClientHandshake(asked, quic=False), record_size_limit)
    ours = ServerStream(ServerHandshake(quic=False))
    now = time.time()
    theirs.start(now)
    ours.receive(theirs.pull_outgoing(), now)
    ours.proceed(answer, now)
    theirs.receive(ours.pull_outgoing(), now)
    ours.receive(theirs.pull_outgoing(), now)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiving = socket.create_connection(listener.getsockname(), timeout=60)
        sending, _ = listener.accept()
    sizes: list[int] = []
    with receiving, sending:
        offload(sending, ours.records)
        sending.sendall(bytes(count))
        while sum(sizes) < count:
            sizes += [len(event.data) for event in theirs.receive(receiving.recv(theirs.needed()), now)]
    return sizes


ca = authority()
server = ca.issue("server.test")
assert capabilities().limits, "kTLS supports record size limits"
assert records_sent(server, 2000, record_size_limit=600) == [599, 599, 599, 203]
certificate, key = der(ca.issue("client.test", client=True))

serve_nfs(security="mtls")
must("modprobe", "--remove", "nfsv4", "nfs")
with daemon(f'[client]\ntrust = "{ca.root}"\n[server]\ntrust = "{ca.root}"\n') as running:
    running.register(
        "nfs",
        (server.certificate, server.key),
        alpns=["sunrpc"],
        allow_kernel=True,
        peers=["allow san=dns:client.test tag=by-keyring"],
    )
    serving(running)
    must("modprobe", "nfs")  # creates the keyring .nfs, after the daemon has started

    with mounted(security="mtls", options=serials("client", certificate, key, "%:.nfs")) as directory:
        write_and_read(directory)
    logged(running, "outcome=ok", "role=server", "tags=by-keyring")
    assert "outcome=failed" not in running.log.read_text()

    started = time.monotonic()
    # Keys that only their possessor may read; the daemon does not possess them.
    refused(mount(security="mtls", options=serials("hidden", certificate, key, "@s")))
    logged(running, "outcome=failed", "role=client", "cannot be read: Permission denied")
    # Certificate and key are swapped.
    refused(mount(security="mtls", options=serials("swapped", key, certificate, "%:.nfs")))
    logged(running, "outcome=failed", "role=client", "cannot be used")
    # Keys that do not exist: the kernel refuses the mount itself.
    process = mount(security="mtls", options=",cert_serial=1,privkey_serial=1")
    assert process.returncode != 0, "mounted"
    assert time.monotonic() - started < SOON
