"""The certificates of tlshd's configuration after ``import-tlshd``, and what clients of other protocols are told.

``[server]`` serves clients that match no registration. An ALPN mismatch is ``no_application_protocol`` with it, too.
"""

import ssl
import subprocess
from pathlib import Path

from handshaked.testing.daemon import RunningDaemon
from tests.kernel.inside.rpc import context, handshake
from tests.kernel.inside.scene import HERE, authority, daemon, logged, mounted, serve_nfs, serving, write_and_read

ca = authority()
server = ca.issue("server.test")
client = ca.issue("client.test", client=True)
ROOT = HERE / "imported"


def migrate() -> tuple[str, Path]:
    """Import tlshd's configuration. Return the settings, and the file with the registrations."""
    source = HERE / "tlshd.conf"
    source.write_text(
        f"[authenticate.client]\nx509.truststore={ca.root}\nx509.certificate={client.certificate}\n"
        f"x509.private_key={client.key}\n[authenticate.server]\nx509.truststore={ca.root}\n"
        f"x509.certificate={server.certificate}\nx509.private_key={server.key}\n"
    )
    subprocess.run(["handshakectl", "import-tlshd", f"--config={source}", f"--into={ROOT}"], check=True)
    return (ROOT / "handshaked.toml").read_text(), ROOT / "registrations.d" / "tlshd.toml"


def alert_for(*alpns: str) -> str:
    """Return the name of the alert that a client which offers `alpns` gets."""
    tls = context(ca.root)
    tls.set_alpn_protocols(list(alpns))
    try:
        handshake(tls).close()
    except ssl.SSLError as error:
        return str(error).lower().replace(" ", "_")
    return "none"


def mounts(running: RunningDaemon, count: int) -> None:
    """Mount with ``tls`` and ``mtls``, and have a client refused that offers another protocol only."""
    for security in ("tls", "mtls"):
        with mounted(security=security) as directory:
            write_and_read(directory)
    for role in ("client", "server"):
        logged(running, "outcome=ok", f"role={role}", count=2 * count)
    assert "no_application_protocol" in alert_for("h3", "smb")
    logged(running, "outcome=failed", "role=server", "alert=no_application_protocol", count=count)
    assert alert_for("h3", "sunrpc") == "none"


settings, registrations = migrate()
serve_nfs()
with daemon(settings, name="server-only") as running:  # a server of another protocol has no registration
    serving(running)
    mounts(running, 1)
    assert "registration=" not in running.log.read_text()

running = daemon(settings, name="complete")
running.drop_ins.mkdir(parents=True, exist_ok=True)
(running.drop_ins / "tlshd.toml").write_text(registrations.read_text())
with running:
    serving(running)
    mounts(running, 1)
    logged(running, "outcome=ok", "role=server", "registration=tlshd")
