"""The kernel sources of a worker: they use what the parent has read, from the files as they are at that time."""

import asyncio
import ssl
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.handshakes.service import HandshakeService
from handshaked.handshakes.side_files import SideFiles
from handshaked.model import AuthMode, Role
from handshaked.testing.authority import Authority, Issued
from handshaked.upcall.fake_kernel import FakeFamily, Submission
from handshaked.upcall.kernel_sources import KernelSources
from tests.conftest import Issue
from tests.datapath.tcp_scene import (
    NAME,
    OpenSsl,
    connection,
    server_context,
)
from tests.registered import Registered


async def certificate_shown(family: FakeFamily, context: ssl.SSLContext) -> bytes | None:
    """Return the certificate that a client of the kernel sends to a server that requires one."""
    ours, theirs = connection()
    with ours, theirs:
        server = OpenSsl(context, theirs)
        family.submit(Submission(ours, Role.CLIENT, AuthMode.X509, peer_name=NAME))
        await asyncio.to_thread(server.shake_hands)
        return server.tls.getpeercert(binary_form=True)


def der(issued: Issued) -> bytes:
    return issued.leaf.public_bytes(Encoding.DER)


def test_client_certificate_is_that_of_the_latest_files(authority: Authority, issue: Issue, tmp_path: Path) -> None:
    old, new = (authority.issue("someone", client=True, file_name=f"sources-{name}") for name in ("old", "new"))
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    configuration = tmp_path / "handshaked.toml"
    configuration.write_text(
        f'[client]\ntrust = "{authority.root}"\ncertificate = "{certificate}"\nprivate_key = "{key}"\n'
    )

    def files_with(issued: Issued) -> SideFiles:
        certificate.write_bytes(issued.certificate.read_bytes())
        key.write_bytes(issued.key.read_bytes())
        key.chmod(0o600)
        read = SideFiles.read(configuration, required=True)
        key.unlink()  # a worker may not be able to read it
        return SideFiles.pull(read.push())

    async def scenario() -> None:
        registered = Registered(authority)
        service = HandshakeService(registered.snapshot, registered, lambda *_: None)
        family = FakeFamily()
        family.serve_in_loop()
        context = server_context(issue(NAME), authority.root)
        sources = KernelSources(service, files_with(old), open_link=lambda namespace: family.open_link())
        try:
            assert await certificate_shown(family, context) == der(old)
            sources.reload(files_with(new))
            assert await certificate_shown(family, context) == der(new)
        finally:
            sources.close()
            family.close()

    asyncio.run(scenario())
