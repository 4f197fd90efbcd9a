"""Invalid certificates fail the mount with EACCES, without waiting for a timeout."""

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
untrusted = other.issue("server.test", file_name="untrusted")
expired = ca.issue("server.test", valid=(-20, -1), file_name="expired")
misnamed = ca.issue("elsewhere.test")

serve_nfs()
with daemon(f'[client]\ntrust = "{ca.root}"\n') as running:
    serving(running)
    for issued, alert in ((untrusted, "unknown_ca"), (expired, "certificate_expired"), (misnamed, "bad_certificate")):
        running.register(
            "nfs", (issued.certificate, issued.key), alpns=["sunrpc"], allow_kernel=True, replace=True, force=True
        )
        started = time.monotonic()
        refused(mount())
        print(f"{alert}: refused after {time.monotonic() - started:.1f} s")
        logged(running, "outcome=failed", "role=client", f"alert={alert}")
        logged(running, "outcome=failed", "role=server", f"alert={alert}")  # the client's alert
    running.register("nfs", (good.certificate, good.key), alpns=["sunrpc"], allow_kernel=True, replace=True)
    with mounted() as directory:
        write_and_read(directory)
