"""One daemon serves two network namespaces, the NFS client's and nfsd's; a third one is created later."""

from tests.kernel.inside.scene import (
    CLIENT,
    IN_CLIENT,
    authority,
    daemon,
    logged,
    make_client_namespace,
    mounted,
    must,
    serve_nfs,
    serving,
    until,
    write_and_read,
)

ca = authority()
server = ca.issue("server.test")
make_client_namespace()
serve_nfs()
running = daemon(f'[client]\ntrust = "{ca.root}"\n[kernel]\nnetwork_namespaces = [".", "{CLIENT}"]\n', workers=2)
with running:
    running.register("nfs", (server.certificate, server.key), alpns=["sunrpc"], allow_kernel=True)
    serving(running)
    with mounted(launcher=IN_CLIENT) as directory:
        write_and_read(directory)
    for role in ("client", "server"):
        logged(running, "outcome=ok", f"role={role}")

# A missing namespace is reported, and the others are served.
running = daemon(f'[client]\ntrust = "{ca.root}"\n[kernel]\nnetwork_namespaces = [".", "later"]\n', name="later")
with running:
    running.register("nfs", (server.certificate, server.key), alpns=["sunrpc"], allow_kernel=True)

    def states() -> list[str]:
        """Return the states of the only worker's kernel sources."""
        return [source["state"] for source in running.ask("status")["workers"][0].get("kernel") or ()]

    until(lambda: states() == ["serving", "no netlink: No such file or directory"], "one of two sources is serving")
    with mounted() as directory:
        write_and_read(directory)
    must("ip", "netns", "add", "later")
    serving(running)  # after a while: nothing announces new namespaces
