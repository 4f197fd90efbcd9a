"""How handshakes of a registration are to be run, as it is asked for: settings by their names, and files of trust."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from handshaked.control.requests.arguments import ArgumentError, Arguments
from handshaked.control.requests.loading import open_again
from handshaked.errors import RefusedError
from handshaked.model import CipherSuite, Group
from handshaked.registry.delivery import parse_delivery
from handshaked.registry.files import read_file
from handshaked.registry.peer_rules import parse_rule
from handshaked.registry.registration import Policy
from handshaked.registry.store import NewTrust
from handshaked.tls.x509.readers import read_revocation_lists, read_trust_store

MAX_TICKETS = 4
MAX_RULES = 256
CLIENT_AUTH = ("none", "request", "require")


@dataclass(frozen=True, slots=True)
class TrustSource:
    """The files of trust anchors and revocation lists for client certificates. Empty: there is none."""

    anchors: str = ""
    revocations: str = ""

    @property
    def paths(self) -> list[str]:
        """The files, in the order in which descriptors of them are handed over."""
        return [path for path in (self.anchors, self.revocations) if path]


def pull_policy(arguments: Arguments) -> Policy:
    """The policy in `arguments`."""
    client_auth = arguments.optional_text("client_auth") or "none"
    if client_auth not in CLIENT_AUTH:
        raise ArgumentError("client_auth", f"client_auth {client_auth!r}: use one of {', '.join(CLIENT_AUTH)}")
    policy = Policy(
        client_auth=client_auth,
        tickets=arguments.number("tickets", Policy().tickets, limit=MAX_TICKETS),
        early_data=arguments.flag("early_data"),
        cipher_suites=arguments.each("cipher_suites", _cipher_suite, "cipher suite"),
        groups=arguments.each("groups", _group, "group"),
        peers=arguments.each("peers", _rule, "rule"),
        deliver=parse_delivery(arguments.optional_text("deliver") or "accept").text,
        proxy_protocol=arguments.flag("proxy_protocol"),
    )
    if policy.early_data and not policy.tickets:
        raise ArgumentError("early_data", "early data comes with session tickets: allow at least one")
    if len(policy.peers) > MAX_RULES:
        raise ArgumentError("peers", f"a registration has at most {MAX_RULES} rules on peers")
    return policy


def pull_trust(arguments: Arguments, policy: Policy) -> TrustSource:
    """The files of trust in `arguments`."""
    source = TrustSource(
        anchors=arguments.optional_text("client_ca") or "",
        revocations=arguments.optional_text("client_crl") or "",
    )
    if source.revocations and not source.anchors:
        raise ArgumentError("client_crl", "revocation lists need the authority whose they are: give client-ca too")
    if source.anchors and policy.client_auth == "none" and not policy.peers:
        raise ArgumentError("client_ca", "nothing would use it: ask for client certificates with client-auth")
    return source


def read_trust(source: TrustSource, descriptors: Sequence[int]) -> tuple[bytes, ...]:
    """The contents of the open files `descriptors`, which are those of `source`."""
    if len(descriptors) != len(source.paths):
        raise RefusedError(f"{len(descriptors)} file descriptors came for the {len(source.paths)} files of trust")
    return tuple(read_file(fd, path, secret=False) for fd, path in zip(descriptors, source.paths, strict=True))


def read_trust_again(source: TrustSource, owner: int) -> tuple[bytes, ...]:
    """What lies in the files of `source` now. OSError or RefusedError if it cannot be read for `owner`."""
    with ExitStack() as files:
        return read_trust(source, open_again(source.paths, owner, files, public=True))


def load_trust(source: TrustSource, contents: tuple[bytes, ...]) -> NewTrust | None:
    """What is in `contents`, which are those of the files of `source`; None if it has none. RefusedError if it is of
    no use."""
    if not contents:
        return None
    read_trust_store(contents[0], source.anchors)
    if source.revocations:
        read_revocation_lists(contents[1], source.revocations)
    return NewTrust(contents[0], contents[1] if source.revocations else b"", source.anchors, source.revocations)


def _cipher_suite(name: str) -> str:
    canonical = name.upper().removeprefix("TLS_")
    if canonical not in CipherSuite.__members__:
        raise RefusedError(f"cipher suite {name!r}: use one of {', '.join(CipherSuite.__members__)}")
    return canonical


def _group(name: str) -> str:
    canonical = name.upper().replace("-", "")
    canonical = {"P256": "SECP256R1", "P384": "SECP384R1", "P521": "SECP521R1"}.get(canonical, canonical)
    if canonical not in Group.__members__:
        raise RefusedError(f"group {name!r}: use one of {', '.join(Group.__members__)}")
    return canonical


def _rule(text: str) -> str:
    parse_rule(text)
    return text
