"""Two server names on one nfsd, each with its own certificate, selected by SNI; a third name is refused."""

import ssl
from contextlib import suppress

from handshaked.model import KeyType
from tests.kernel.inside.rpc import context, handshake
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
one = ca.issue("one.test")
two = ca.issue("two.test", key_type=KeyType.RSA)

serve_nfs()
with daemon(f'[client]\ntrust = "{ca.root}"\n') as running:
    for name, issued in (("one", one), ("two", two)):
        running.register(
            name, (issued.certificate, issued.key), alpns=["sunrpc"], server_names=[f"{name}.test"], allow_kernel=True
        )
    serving(running)
    for name in ("one.test", "two.test"):
        with mounted(name) as directory:
            write_and_read(directory)
    tls = context(ca.root)
    for name, issued in (("one.test", one), ("two.test", two)):
        with handshake(tls, name) as sock:
            assert ssl.DER_cert_to_PEM_cert(sock.getpeercert(binary_form=True) or b"") == issued.certificate.read_text()
    refused(mount("unknown.test"))
    logged(running, "outcome=failed", "role=server", "alert=unrecognized_name")

    # Clients without ALPN match only registrations without ALPN: none at first, then one.
    tls = ssl.create_default_context(cafile=str(ca.root))
    with suppress(ssl.SSLError):
        handshake(tls, "one.test")
        raise AssertionError("a client without ALPN was served")
    logged(running, "outcome=failed", "role=server", "alert=no_application_protocol")
    running.register("plain", (one.certificate, one.key), alpns=[], server_names=["one.test"], allow_kernel=True)
    handshake(tls, "one.test").close()
