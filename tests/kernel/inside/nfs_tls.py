"""An ``xprtsec=tls`` mount, handshakes of both sides by the daemon: a file is written and read back."""

from scene import authority, daemon, logged, mounted, serve_nfs, serving, show, write_and_read

ca = authority()
server = ca.issue("server.test")
with daemon(f'[client]\ntrust = "{ca.root}"\n') as running:
    try:
        running.register("nfs", (server.certificate, server.key), alpns=["sunrpc"], allow_kernel=True)
        serving(running)
        serve_nfs()
        with mounted() as directory:
            write_and_read(directory)
        assert len(logged(running, "ok")) >= 2, "one handshake on each side"
        assert not logged(running, "failed")
    finally:
        show(running)
