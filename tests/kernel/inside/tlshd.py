"""Interoperability with tlshd, as client and as server of ``tls`` and ``mtls`` mounts.

The kernel's upcall goes to the agent in the socket's network namespace. The NFS client is in a namespace of its own, so
that each side has its own agent.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handshaked.testing.authority import Issued
from tests.kernel.inside.scene import (
    CLIENT,
    HERE,
    IN_CLIENT,
    authority,
    daemon,
    logged,
    make_client_namespace,
    mount,
    mounted,
    must,
    refused,
    serve_nfs,
    serving,
    until,
    write_and_read,
)

ca = authority()
other = authority("other CA")
server = ca.issue("server.test")
client = ca.issue("client.test", client=True)


@contextmanager
def tlshd(section: str, issued: Issued, *launcher: str, trust: Path = ca.root) -> Iterator[None]:
    """Run tlshd, and wait until it listens; `launcher` is a prefix of the command that enters a namespace."""
    configuration = HERE / "tlshd.conf"
    configuration.write_text(
        f"[authenticate.{section}]\nx509.truststore={trust}\n"
        f"x509.certificate={issued.certificate}\nx509.private_key={issued.key}\n"
    )
    with (HERE / "tlshd.log").open("ab") as log:
        process = subprocess.Popen([*launcher, "tlshd", "-s", "-c", str(configuration)], stdout=log, stderr=log)
    try:
        until(lambda: agent_listens(*launcher), "tlshd listens")
        yield
    finally:
        process.kill()
        process.wait()


def agent_listens(*launcher: str) -> bool:
    """Return whether a generic netlink socket (protocol 16) of the namespace has joined a multicast group."""
    lines = [line.split() for line in must(*launcher, "cat", "/proc/self/net/netlink").splitlines()[1:]]
    return any(protocol == "16" and int(groups, 16) for _, protocol, _, groups, *_ in lines)


make_client_namespace()
serve_nfs()
configuration = (
    f'[client]\ntrust = "{ca.root}"\ncertificate = "{client.certificate}"\nprivate_key = "{client.key}"\n'
    f'[server]\ntrust = "{ca.root}"\n'
)

our_client = daemon(configuration + f'[kernel]\nnetwork_namespaces = ["{CLIENT}"]\n', name="client")
with our_client, tlshd("server", server):
    serving(our_client)
    for security in ("tls", "mtls"):
        with mounted(security=security, launcher=IN_CLIENT) as directory:
            write_and_read(directory)
    logged(our_client, "outcome=ok", "role=client", count=2)
    assert "role=server" not in our_client.log.read_text(), "tlshd is the server"
    assert "outcome=failed" not in our_client.log.read_text()

our_server = daemon(configuration, name="server")
with our_server:
    # tlshd 1.0 sends no ALPN.
    our_server.register("nfs", (server.certificate, server.key), alpns=[], allow_kernel=True)
    serving(our_server)
    with tlshd("client", client, *IN_CLIENT):
        for security in ("tls", "mtls"):
            with mounted(security=security, launcher=IN_CLIENT) as directory:
                write_and_read(directory)
        logged(our_server, "outcome=ok", "role=server", count=2)
        assert "role=client" not in our_server.log.read_text(), "tlshd is the client"
        assert "outcome=failed" not in our_server.log.read_text()
    with tlshd("client", client, *IN_CLIENT, trust=other.root):
        refused(mount(launcher=IN_CLIENT))
        logged(our_server, "outcome=failed", "role=server")
