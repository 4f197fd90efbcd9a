"""An ``xprtsec=tls`` mount, handshakes of both sides by the daemon: a file is written and read back."""

from tests.kernel.inside.scene import authority, daemon, logged, mounted, serve_nfs, serving, write_and_read

ca = authority()
server = ca.issue("server.test")
with daemon(f'[client]\ntrust = "{ca.root}"\n') as running:
    running.register("nfs", (server.certificate, server.key), alpns=["sunrpc"], allow_kernel=True)
    serving(running)
    serve_nfs()
    with mounted() as directory:
        write_and_read(directory)
    for role in ("client", "server"):
        logged(running, "outcome=ok", f"role={role}")
    assert "outcome=failed" not in running.log.read_text()
