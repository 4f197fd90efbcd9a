"""``xprtsec=mtls`` mounts need both sides' certificates, and a client that the peer rules allow."""

from tests.kernel.inside.scene import (
    authority,
    daemon,
    logged,
    mount,
    mounted,
    refused,
    serve_nfs,
    serving,
    write_and_read,
)

ca = authority()
server = ca.issue("server.test")
client = ca.issue("client.test", client=True)
without = f'[client]\ntrust = "{ca.root}"\n[server]\ntrust = "{ca.root}"\n'
with_client = without.replace(
    "[server]", f'certificate = "{client.certificate}"\nprivate_key = "{client.key}"\n[server]'
)

serve_nfs(security="mtls")

with daemon(without, name="without") as running:
    running.register("nfs", (server.certificate, server.key), alpns=["sunrpc"], allow_kernel=True)
    serving(running)
    refused(mount(security="mtls"))
    logged(running, "outcome=failed", "role=client", "no client certificate: configure")
    process = mount(security="tls")  # the handshake succeeds, but the export requires mtls
    assert process.returncode != 0, "mounted"
    assert "Operation not permitted" in process.stdout, process.stdout

with daemon(with_client, name="with") as running:
    running.register("nfs", (server.certificate, server.key), alpns=["sunrpc"], allow_kernel=True)
    serving(running)
    with mounted(security="mtls") as directory:
        write_and_read(directory)
    assert "outcome=failed" not in running.log.read_text()

    pair = (server.certificate, server.key)

    def rules(*peers: str) -> None:
        running.register(
            "nfs",
            (server.certificate, server.key),
            alpns=["sunrpc"],
            allow_kernel=True,
            peers=list(peers),
            replace=True,
        )

    rules("allow san=dns:*.test eku=clientAuth tag=friend")
    with mounted(security="mtls") as directory:
        write_and_read(directory)
    logged(running, "outcome=ok", "role=server", "tags=friend")
    rules("deny san=dns:client.test")
    # The server's verdict on the client certificate arrives after the client's Finished: kTLS reports the alert.
    assert mount(security="mtls").returncode != 0, "a client that a rule denies"
    logged(running, "outcome=failed", "role=server", "access_denied")
