"""The service as an ordinary user with CAP_NET_ADMIN and a session keyring of its own, as in ``handshaked.service``.

Consumers get the serial numbers of keys with the certificates of their peers: the keys exist in the kernel, can be
described by their serial, and expire.
"""

import os

from handshaked.testing.daemon import RunningDaemon
from tests.kernel.inside.scene import (
    AS_ORDINARY_USER,
    ORDINARY_UID,
    SANDBOX,
    authority,
    daemon,
    logged,
    mounted,
    must,
    run,
    serve_nfs,
    serving,
    write_and_read,
)

KIND = "user" if "No such device" in run("keyctl", "add", "asymmetric", "probe", "x", "@s").stdout else "asymmetric"
"""The type of keys with certificates; User-Mode Linux has no CONFIG_ASYMMETRIC_KEY_TYPE."""

ca = authority()
server = ca.issue("server.test")
client = ca.issue("client.test", client=True)
for path in (ca.root.parent, *ca.root.parent.iterdir()):
    os.chown(path, ORDINARY_UID, ORDINARY_UID)
configuration = (
    f'[client]\ntrust = "{ca.root}"\ncertificate = "{client.certificate}"\nprivate_key = "{client.key}"\n'
    f'[server]\ntrust = "{ca.root}"\ncertificate = "{server.certificate}"\nprivate_key = "{server.key}"\n'
)


def serials(running: RunningDaemon, role: str, count: int) -> list[int]:
    """Return the serials that consumers of `role` got in `count` handshakes."""
    lines = logged(running, "outcome=ok", f"role={role}", "peer_key=", count=count)
    return [int(line.split("peer_key=")[1].split()[0]) for line in lines[:count]]


def check(serial: int, peer: str) -> None:
    """Check that the kernel knows the key with `serial`, outside of the session of the service."""
    described = must(*AS_ORDINARY_USER, "keyctl", "rdescribe", str(serial))
    assert described.startswith(f"{KIND};"), described
    assert f"TLS x509 {peer} " in described, described
    listed = [line.split() for line in must(*AS_ORDINARY_USER, "cat", "/proc/keys").splitlines()]
    (key,) = [line for line in listed if int(line[0], 16) == serial]
    assert key[3] in ("1d", "23h"), f"the key does not expire: {key}"


running = daemon(configuration, workers=2, launcher=SANDBOX)
with running:
    serving(running)
    serve_nfs()
    for _ in range(2):
        with mounted(security="mtls") as mount_point:
            write_and_read(mount_point)
    for role, peer in (("client", "server.test"), ("server", "127.0.0.1")):
        first, second = serials(running, role, 2)
        assert first == second, "the consumer of the first mount would lose its key"
        check(first, peer)
    assert "outcome=failed" not in running.log.read_text()
