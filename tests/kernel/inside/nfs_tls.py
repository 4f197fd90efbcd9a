"""``xprtsec=tls`` mounts with each cipher suite, both sides' handshakes by the daemon: files are written and read."""

from handshaked.model import CipherSuite
from tests.kernel.inside.scene import authority, daemon, logged, mounted, serve_nfs, serving, write_and_read

ca = authority()
server = ca.issue("server.test")
with daemon(f'[client]\ntrust = "{ca.root}"\n') as running:
    serving(running)
    serve_nfs()
    for suite in CipherSuite:
        running.register(
            "nfs",
            (server.certificate, server.key),
            alpns=["sunrpc"],
            allow_kernel=True,
            cipher_suites=[suite.name],
            replace=True,
        )
        with mounted() as directory:
            write_and_read(directory)
        for role in ("client", "server"):
            logged(running, "outcome=ok", f"role={role}", f"cipher={suite.name}")
    assert "outcome=failed" not in running.log.read_text()
