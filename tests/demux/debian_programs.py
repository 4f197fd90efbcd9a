"""Unmodified QUIC servers and clients, run in a Debian 13 root prepared by ``tests/demux/debian13``."""

import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handshaked.testing.authority import Issued
from handshaked.testing.web_servers import Site, caddy_configuration, nginx_configuration
from tests.patience import BUILD_PATIENCE, PATIENCE
from tests.run_name import PREFIX, RUN, VARIABLE

_PREPARE = Path(__file__).with_name("debian13")
_START_SECONDS = 60.0
_RUN_SECONDS = 90.0


class Debian:
    """A Debian root and a temporary directory in it: ``outside`` is its path here, ``inside`` its path in the root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outside = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root / "tmp"))
        self.outside.chmod(0o755)
        self.inside = Path("/") / self.outside.relative_to(root)

    def put(self, path: Path, user: int = 0) -> Path:
        """Copy the file at `path` so that only `user` may read it. Return the path inside."""
        copy = self.outside / path.name
        shutil.copyfile(path, copy)
        copy.chmod(0o400)
        os.chown(copy, user, user)
        return self.inside / path.name

    def directory(self, name: str, user: int) -> Path:
        """Make a directory owned by `user`. Return the path inside."""
        made = self.outside / name
        made.mkdir()
        os.chown(made, user, user)
        return self.inside / name

    @contextmanager
    def process(self, *words: str, user: int = 0, home: Path, **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
        """Run `words` inside as `user`, with PID and mount namespaces of their own, and kill them at the end.

        The whole process group is killed. ``unshare --kill-child`` would not do for another user: the kernel clears the
        parent-death signal when credentials change (prctl(2)).
        """
        namespaces = ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={self.root / 'proc'}"]
        process = subprocess.Popen(
            [*namespaces, "chroot", f"--userspec={user}:{user}", str(self.root), *words],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home), VARIABLE: RUN},
            process_group=0,
            **options,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run `words` inside to their end, with their output captured."""
        with self.process(*words, home=self.inside, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            output, errors = process.communicate(timeout=_RUN_SECONDS)
        return subprocess.CompletedProcess(
            words, process.returncode, output.decode(errors="replace"), errors.decode(errors="replace")
        )

    def close(self) -> None:
        """Remove the temporary directory."""
        shutil.rmtree(self.outside)


@contextmanager
def prepared() -> Iterator[Debian]:
    """Yield the root, which is made first if needed."""
    made = subprocess.run([_PREPARE], stdout=subprocess.PIPE, text=True, check=True, timeout=BUILD_PATIENCE)
    debian = Debian(Path(made.stdout.strip()))
    try:
        yield debian
    finally:
        debian.close()


@contextmanager
def server(debian: Debian, user: int, port: int, *words: str) -> Iterator[None]:
    """Run the server `words` inside as `user`, from when it has opened the UDP `port` until the block ends."""
    name = Path(words[0]).name
    log = debian.outside / f"{name}.log"
    with (
        log.open("wb") as output,
        debian.process(
            *words, user=user, home=debian.inside / name, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
    ):
        deadline = time.monotonic() + _START_SECONDS
        while f":{port:04X} " not in Path("/proc/net/udp").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{words[0]} did not start:\n{log.read_text()}")
        yield


@contextmanager
def nginx(
    debian: Debian, user: int, port: int, certificates: dict[str, Issued], *, gso: bool = False
) -> Iterator[None]:
    """Run nginx with HTTP/3 on `port` of loopback; `gso` enables segmentation offload."""
    home = debian.directory("nginx", user)
    configuration = debian.outside / "nginx.conf"
    sites = _sites(debian, user, "nginx", certificates)
    configuration.write_text(nginx_configuration(home, port, sites, gso=gso))
    with server(debian, user, port, "/usr/sbin/nginx", "-e", "stderr", "-c", str(debian.inside / "nginx.conf")):
        yield


@contextmanager
def caddy(debian: Debian, user: int, port: int, certificates: dict[str, Issued]) -> Iterator[None]:
    """Run Caddy on `port` of loopback."""
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
    """The body or the error that a client received."""

    body: str
    error: str = ""


def curl(debian: Debian, name: str, port: int, root: Path) -> Visit:
    """Fetch a page with Debian 13's curl (OpenSSL) by HTTP/3."""
    trust = debian.outside / "root.pem"
    trust.write_bytes(root.read_bytes())
    run = debian.run(
        "curl", "-sSv", "--http3-only", "--max-time", "20", "--resolve", f"{name}:{port}:127.0.0.1",
        "--cacert", str(debian.inside / "root.pem"), f"https://{name}:{port}/",
    )  # fmt: skip
    return Visit(run.stdout, run.stderr if run.returncode else "")


def download(debian: Debian, name: str, port: int, root: Path) -> float:
    """Download nginx's ``/body`` with curl. Return bytes per second."""
    trust = debian.outside / "root.pem"
    trust.write_bytes(root.read_bytes())
    run = debian.run(
        "curl", "-sS", "--http3-only", "--max-time", "60", "--resolve", f"{name}:{port}:127.0.0.1", "-o", "/dev/null",
        "--cacert", str(debian.inside / "root.pem"), "-w", "%{speed_download}", f"https://{name}:{port}/body",
    )  # fmt: skip
    return float(run.stdout)


def chromium(debian: Debian, name: str, port: int, certificate: x509.Certificate) -> Visit:
    """Fetch a page with Chromium over QUIC, trusting only the key of `certificate`; its network log has the errors."""
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
