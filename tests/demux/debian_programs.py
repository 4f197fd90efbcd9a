"""Servers and clients of others, out of a Debian 13 root that ``tests/demux/debian13`` prepares."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handshaked.testing.authority import Issued
from handshaked.testing.web_servers import Site, caddy_configuration, nginx_configuration
from tests.patience import BUILD_PATIENCE, PATIENCE

_PREPARE = Path(__file__).with_name("debian13")
_START_SECONDS = 60.0
_RUN_SECONDS = 90.0


class Debian:
    """The root, with a directory of this test's own in it: ``inside`` as its programs see it, ``outside`` as we do."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outside = Path(tempfile.mkdtemp(prefix="handshaked-", dir=root / "tmp"))
        self.outside.chmod(0o755)
        self.inside = Path("/") / self.outside.relative_to(root)

    def put(self, path: Path, user: int = 0) -> Path:
        """A copy of the file at `path` that `user` may read; its path inside."""
        copy = self.outside / path.name
        shutil.copyfile(path, copy)
        copy.chmod(0o400)
        os.chown(copy, user, user)
        return self.inside / path.name

    def directory(self, name: str, user: int) -> Path:
        """A directory of `user`'s; its path inside."""
        made = self.outside / name
        made.mkdir()
        os.chown(made, user, user)
        return self.inside / name

    def command(self, *words: str, user: int = 0) -> list[str]:
        """The command that runs `words` inside as `user`, with a /proc and namespaces of its own for processes."""
        namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={self.root / 'proc'}"]
        return [*namespace, "chroot", f"--userspec={user}:{user}", str(self.root), *words]

    def run(self, *words: str, user: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run `words` inside to their end."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.inside)}
        return subprocess.run(
            self.command(*words, user=user),
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_RUN_SECONDS,
        )

    def close(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.outside)


def prepare() -> Debian:
    """The root, prepared now if it was not before."""
    made = subprocess.run([_PREPARE], stdout=subprocess.PIPE, text=True, check=True, timeout=BUILD_PATIENCE)
    return Debian(Path(made.stdout.strip()))


@contextmanager
def server(debian: Debian, user: int, port: int, *words: str) -> Iterator[None]:
    """Run the server `words` inside as `user` until it has the UDP `port`, and end it after use."""
    log = debian.outside / f"{Path(words[0]).name}.log"
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": f"{debian.inside}/{Path(words[0]).name}"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            debian.command(*words, user=user),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while f":{port:04X} " not in Path("/proc/net/udp").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{words[0]} did not start:\n{log.read_text()}")
        yield
    finally:
        process.kill()  # unshare does not heed SIGTERM; what it runs goes with it
        process.wait(PATIENCE)


@contextmanager
def nginx(
    debian: Debian, user: int, port: int, certificates: dict[str, Issued], *, gso: bool = False
) -> Iterator[None]:
    """nginx with HTTP/3 at `port` of the loopback; `gso`: it sends many datagrams at once."""
    home = debian.directory("nginx", user)
    configuration = debian.outside / "nginx.conf"
    sites = _sites(debian, user, "nginx", certificates)
    configuration.write_text(nginx_configuration(home, port, sites, gso=gso))
    with server(debian, user, port, "/usr/sbin/nginx", "-e", "stderr", "-c", str(debian.inside / "nginx.conf")):
        yield


@contextmanager
def caddy(debian: Debian, user: int, port: int, certificates: dict[str, Issued]) -> Iterator[None]:
    """Caddy at `port` of the loopback."""
    debian.directory("caddy", user)
    configuration = debian.outside / "Caddyfile"
    configuration.write_text(caddy_configuration(port, _sites(debian, user, "caddy", certificates)))
    words = ("/usr/bin/caddy", "run", "--config", str(debian.inside / "Caddyfile"), "--adapter", "caddyfile")
    with server(debian, user, port, *words):
        yield


def _sites(debian: Debian, user: int, program: str, certificates: dict[str, Issued]) -> list[Site]:
    return [
        Site(name, debian.put(one.certificate, user), debian.put(one.key, user), f"{program} {name}")
        for name, one in certificates.items()
    ]


@dataclass(frozen=True)
class Visit:
    """What a client saw: the body, or how it was refused."""

    body: str
    error: str = ""


def curl(debian: Debian, name: str, port: int, root: Path) -> Visit:
    """Debian 13's curl (OpenSSL) with HTTP/3."""
    trust = debian.outside / "root.pem"
    trust.write_bytes(root.read_bytes())
    run = debian.run(
        "curl", "-sSv", "--http3-only", "--max-time", "20", "--resolve", f"{name}:{port}:127.0.0.1",
        "--cacert", str(debian.inside / "root.pem"), f"https://{name}:{port}/",
    )  # fmt: skip
    return Visit(run.stdout, run.stderr if run.returncode else "")


def download(debian: Debian, name: str, port: int, root: Path) -> float:
    """Bytes a second that curl gets of nginx's ``/body``."""
    trust = debian.outside / "root.pem"
    trust.write_bytes(root.read_bytes())
    run = debian.run(
        "curl", "-sS", "--http3-only", "--max-time", "60", "--resolve", f"{name}:{port}:127.0.0.1", "-o", "/dev/null",
        "--cacert", str(debian.inside / "root.pem"), "-w", "%{speed_download}", f"https://{name}:{port}/body",
    )  # fmt: skip
    return float(run.stdout)


def chromium(debian: Debian, name: str, port: int, certificate: x509.Certificate) -> Visit:
    """Chromium, made to use QUIC, that trusts the key of `certificate` alone; its network log tells of errors."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    trusted = base64.b64encode(hashlib.sha256(key).digest()).decode()
    profile = Path(tempfile.mkdtemp(prefix="chromium-", dir=debian.outside))
    inside = debian.inside / profile.name
    run = debian.run(
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={inside}",
        f"--origin-to-force-quic-on={name}:{port}", f"--host-resolver-rules=MAP {name} 127.0.0.1",
        f"--ignore-certificate-errors-spki-list={trusted}", f"--log-net-log={inside}/net.json",
        "--timeout=20000", "--dump-dom", f"https://{name}:{port}/",
    )  # fmt: skip
    log = profile / "net.json"
    text = log.read_text(errors="replace") if log.exists() else run.stderr
    codes = re.findall(r'"quic_error":(\d+)|"(?:quic_)?error_details":"([^"]*)"|"details":"([^"]*)"', text)
    words = " ".join(sorted({part for code in codes for part in code if part}))
    return Visit(run.stdout, words if "ERR_" in run.stdout or not run.stdout.strip() else "")
