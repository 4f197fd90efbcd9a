"""Run unmodified web servers with HTTP/3: nginx, Caddy, and ngtcp2's gtlsserver."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handshaked.testing.processes import ending

_START_SECONDS = 30.0
_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin"


@dataclass(frozen=True, slots=True)
class Site:
    """A server name with its page, certificate and key; the server's user must be able to read both files."""

    name: str
    certificate: Path
    key: Path
    page: str


def nginx_configuration(home: Path, port: int, sites: Sequence[Site], *, gso: bool = False) -> str:
    """Return a configuration for nginx with all files below `home`; `gso` enables segmentation offload."""
    blocks = "".join(
        f"server {{ listen 127.0.0.1:{port} quic; server_name {site.name};"
        f" ssl_certificate {site.certificate}; ssl_certificate_key {site.key};"
        f' location / {{ return 200 "{site.page}\\n"; }} location = /body {{ root {home}; }} }}\n'
        for site in sites
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {home}/{kind};\n" for kind in kinds)
    return (
        f"daemon off;\nmaster_process off;\npid {home}/pid;\nerror_log stderr info;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{'quic_gso on;' if gso else ''}\n{paths}{blocks}}}\n"
    )


def caddy_configuration(port: int, sites: Sequence[Site]) -> str:
    """Return a Caddyfile."""
    blocks = "".join(
        f'https://{site.name}:{port} {{\nbind 127.0.0.1\ntls {site.certificate} {site.key}\nrespond "{site.page}"\n}}\n'
        for site in sites
    )
    return f"{{\nadmin off\nauto_https off\n}}\n{blocks}"


def installed(*programs: str) -> str | None:
    """Return the first of `programs` that is installed and supports HTTP/3."""
    return next((program for program in programs if _speaks_http3(program)), None)


def _speaks_http3(program: str) -> bool:
    found = shutil.which(program, path=_PATH)
    if found is None or program != "nginx":
        return found is not None
    said = subprocess.run([found, "-V"], capture_output=True, text=True, check=False, timeout=_START_SECONDS)  # noqa: S603 - the program found above
    return "http_v3_module" in said.stderr


@contextmanager
def web_server(program: str, home: Path, port: int, site: Site, user: int | None) -> Iterator[None]:
    """Run `program` for `site` on `port` of loopback as `user`, the owner of the directory `home`."""
    configuration = home / "configuration"
    if program == "nginx":
        configuration.write_text(nginx_configuration(home, port, [site]))
        words = ["-e", "stderr", "-c", str(configuration)]
    elif program == "caddy":
        configuration.write_text(caddy_configuration(port, [site]))
        words = ["run", "--config", str(configuration), "--adapter", "caddyfile"]
    else:
        (home / "index.html").write_text(site.page + "\n")
        words = ["-q", "-d", str(home), "127.0.0.1", str(port), str(site.key), str(site.certificate)]
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - one of the programs above
            [shutil.which(program, path=_PATH) or program, *words],
            env={"PATH": _PATH, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=user,
            group=user,
            extra_groups=None if user is None else (),
        )
    with ending(process):
        deadline = time.monotonic() + _START_SECONDS
        while f":{port:04X} " not in Path("/proc/net/udp").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{program} did not start:\n{log.read_text()}")
            time.sleep(0.01)
        yield
