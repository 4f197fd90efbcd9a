"""Certificates that are no good are refused with EACCES, and soon: nobody waits for a timeout."""

import time

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
other = authority("other CA")
good = ca.issue("server.test")
foreign = other.issue("server.test", file_name="foreign")
expired = ca.issue("server.test", valid=(-20, -1), file_name="expired")
misnamed = ca.issue("elsewhere.test")

serve_nfs()
with daemon(f'[client]\ntrust = "{ca.root}"\n') as running:
    serving(running)
    for issued, alert in ((foreign, "unknown_ca"), (expired, "certificate_expired"), (misnamed, "bad_certificate")):
        running.register(
            "nfs", (issued.certificate, issued.key), alpns=["sunrpc"], allow_kernel=True, replace=True, force=True
        )
        started = time.monotonic()
        refused(mount())
        print(f"{alert}: refused after {time.monotonic() - started:.1f} s")
        logged(running, "outcome=failed", "role=client", f"alert={alert}")
        logged(running, "outcome=failed", "role=server", f"alert={alert}")  # it is told, by an alert
    running.register("nfs", (good.certificate, good.key), alpns=["sunrpc"], allow_kernel=True, replace=True)
    with mounted() as directory:
        write_and_read(directory)
