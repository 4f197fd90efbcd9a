"""The policy that a request asks for, and the files of trust anchors that belong to it."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from handshaked.control.requests.arguments import ArgumentError, Arguments
from handshaked.control.requests.loading import reopen
from handshaked.errors import RefusedError
from handshaked.registry.files import read_file
from handshaked.registry.settings import CLIENT_CA, CLIENT_CRL, POLICY, Policy
from handshaked.registry.store import ClientTrust
from handshaked.tls.x509.readers import read_revocation_lists, read_trust_store


@dataclass(frozen=True, slots=True)
class TrustSource:
    """The files with trust anchors and revocation lists for client certificates. Empty: there is none."""

    anchors: str = ""
    revocations: str = ""

    @property
    def paths(self) -> list[str]:
        """The files, in the order in which their descriptors are passed."""
        return [path for path in (self.anchors, self.revocations) if path]


def pull_policy(arguments: Arguments) -> Policy:
    """Return the policy in `arguments`."""
    policy = Policy(**{setting.name: arguments.setting(setting) for setting in POLICY})
    if policy.early_data and not policy.tickets:
        raise ArgumentError("early_data", "early_data requires session tickets: set tickets to at least 1")
    return policy


def pull_trust(arguments: Arguments, policy: Policy) -> TrustSource:
    """Return the files of trust anchors in `arguments`."""
    source = TrustSource(arguments.setting(CLIENT_CA), arguments.setting(CLIENT_CRL))
    if source.revocations and not source.anchors:
        raise ArgumentError("client_crl", "client-crl requires client-ca (the CA that issued the revocation list)")
    if policy.crl_grace and not source.revocations:
        raise ArgumentError("crl_grace", "crl-grace requires client-crl (the revocation lists that it is for)")
    if source.anchors and policy.client_auth == "none" and not policy.peers:
        raise ArgumentError("client_ca", "client-ca has no effect without client certificates: set client-auth, too")
    return source


def read_trust(source: TrustSource, descriptors: Sequence[int]) -> tuple[bytes, ...]:
    """Return the contents of the open files `descriptors`, which are those of `source`."""
    if len(descriptors) != len(source.paths):
        raise RefusedError(
            f"{len(descriptors)} descriptors were passed for {len(source.paths)} trust anchor files; pass one for each"
        )
    return tuple(read_file(fd, path, secret=False) for fd, path in zip(descriptors, source.paths, strict=True))


def reread_trust(source: TrustSource, owner: int) -> tuple[bytes, ...]:
    """Open and read the files of `source` for `owner`. OSError or RefusedError if `owner` may not read them."""
    with ExitStack() as files:
        return read_trust(source, reopen(source.paths, owner, files, public=True))


def load_trust(source: TrustSource, contents: tuple[bytes, ...]) -> ClientTrust | None:
    """Check `contents`, those of the files of `source`, and return them; None if there are none.

    RefusedError if one of them is invalid.
    """
    if not contents:
        return None
    read_trust_store(contents[0], source.anchors)
    if source.revocations:
        read_revocation_lists(contents[1], source.revocations)
    return ClientTrust(contents[0], contents[1] if source.revocations else b"", source.anchors, source.revocations)
