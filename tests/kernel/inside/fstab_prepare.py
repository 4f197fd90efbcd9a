"""Before systemd boots: an NFS server with TLS, a mount of it in fstab, and handshaked enabled, not started.

``lab.service`` then runs the program of the lab when all mounts of remote file systems have been tried.
"""

import shutil
import subprocess
from pathlib import Path

from handshaked.testing.authority import Authority

SYSTEM = Path("/etc/systemd/system")
CERTIFICATES = Path("/srv/certificates")
LAB_UNIT = """[Unit]
After=remote-fs.target
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/lab/init.sh

[Install]
WantedBy=multi-user.target
"""
FSTAB = """tmpfs /var/lib/handshaked tmpfs defaults 0 0
tmpfs /export tmpfs defaults 0 0
server.test:/ /secure nfs4 vers=4.2,xprtsec=tls,_netdev,nofail 0 0
"""
EXPORTS = "/export *(rw,fsid=0,no_root_squash,insecure,no_subtree_check,xprtsec=tls)\n"


def enable(*units: str) -> None:
    """Enable units as an administrator does."""
    subprocess.run(["systemctl", "enable", *units], check=True)


for directory in (CERTIFICATES, Path("/var/lib/handshaked"), Path("/export"), Path("/secure")):
    directory.mkdir(parents=True, exist_ok=True)
authority = Authority(CERTIFICATES)
server = authority.issue("server.test")
Path("/etc/hosts").write_text("127.0.0.1 localhost server.test\n")
Path("/etc/fstab").write_text(FSTAB)
Path("/etc/exports").write_text(EXPORTS)
subprocess.run(["handshakectl", "install-systemd"], check=True)
settings = Path("/etc/handshaked")
drop_ins = settings / "registrations.d"
drop_ins.mkdir(parents=True)
(settings / "handshaked.toml").write_text(f'[client]\ntrust = "{authority.root}"\n')
(drop_ins / "nfs.toml").write_text(
    f'[registration.nfs]\ncertificate = "{server.certificate}"\nkey = "{server.key}"\nalpns = ["sunrpc"]\n'
    "allow-kernel = true\n"
)
(SYSTEM / "lab.service").write_text(LAB_UNIT)
Path("/etc/modules-load.d/lab.conf").write_text("tls\nsunrpc\nnfsd\nnfs\nnfsv4\n")
shutil.rmtree(SYSTEM / "getty.target.wants", ignore_errors=True)
subprocess.run(["systemctl", "mask", "tlshd.service"], check=True)
enable("handshaked.socket", "handshaked.service", "nfs-server.service", "lab.service")
subprocess.run(["systemctl", "set-default", "multi-user.target"], check=True)
