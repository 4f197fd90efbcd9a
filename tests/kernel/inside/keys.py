"""``xprtsec=mtls`` with the client's certificate and key out of the keyring: mount options cert_serial, privkey_serial.

Linux 6.12, which User-Mode Linux is, has neither these options nor the keyring ``.nfs``; 7.3 has them.
"""

import subprocess
import time

from handshaked.testing.authority import Issued
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
    """Certificate and key as they lie in keyrings."""
    return (
        subprocess.check_output(["openssl", "x509", "-in", issued.certificate, "-outform", "DER"]),
        subprocess.check_output(["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", issued.key, "-outform", "DER"]),
    )


def add(name: str, payload: bytes, keyring: str) -> int:
    """A key of root's in `keyring`; its serial."""
    return int(subprocess.check_output(["keyctl", "padd", "user", name, keyring], input=payload))


def serials(name: str, certificate: bytes, key: bytes, keyring: str) -> str:
    """Mount options that name keys with these payloads, which are put into `keyring`."""
    return (
        f",cert_serial={add(f'{name} certificate', certificate, keyring)}"
        f",privkey_serial={add(f'{name} key', key, keyring)}"
    )


ca = authority()
server = ca.issue("server.test")
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
    must("modprobe", "nfs")  # the keyring .nfs comes with the module, behind the daemon

    with mounted(security="mtls", options=serials("client", certificate, key, "%:.nfs")) as directory:
        write_and_read(directory)
    logged(running, "outcome=ok", "role=server", "tags=by-keyring")
    assert "outcome=failed" not in running.log.read_text()

    started = time.monotonic()
    # Keys that only their possessor may read, which the daemon is not.
    refused(mount(security="mtls", options=serials("hidden", certificate, key, "@s")))
    logged(running, "outcome=failed", "role=client", "cannot be read: Permission denied")
    # A key where a certificate should be, and the other way round.
    refused(mount(security="mtls", options=serials("swapped", key, certificate, "%:.nfs")))
    logged(running, "outcome=failed", "role=client", "cannot be used")
    # Keys that do not exist: the kernel itself says so.
    process = mount(security="mtls", options=",cert_serial=1,privkey_serial=1")
    assert process.returncode != 0, "mounted"
    assert time.monotonic() - started < SOON
