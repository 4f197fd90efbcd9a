"""A root, an intermediate, and functions that verify a chain or expect its refusal."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.tls.x509.readers import read_revocation_lists, read_trust_anchors
from handshaked.tls.x509.revocation import RevocationLists
from handshaked.tls.x509.trust import TrustStore
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier
from tests.certificates import (
    NOW,
    Issued,
    authority,
    issue,
    root,
)
from tests.patience import PATIENCE

T = NOW.timestamp()
NO_LISTS = RevocationLists()
ROOT = root()
INTERMEDIATE = issue("intermediate", ROOT, authority(), number=101)


def trust(*anchors: Issued) -> TrustStore:
    return read_trust_anchors([anchor.der for anchor in anchors or (ROOT,)], "trust")


def lists_of(*files: bytes, required: bool = False) -> RevocationLists:
    lists = [one for file in files for one in read_revocation_lists(file, "list.crl")]
    return RevocationLists(lists, required=required)


def verify(*chain: Issued, anchors=(), server_name="a.example", now=T, revocations=NO_LISTS) -> None:
    ServerChainVerifier(trust(*anchors), revocations).verify(tuple(c.der for c in chain), server_name, now)


def verify_client(*chain: Issued, anchors=(), now=T, revocations=NO_LISTS) -> None:
    ClientChainVerifier(trust(*anchors), revocations).verify(tuple(c.der for c in chain), now)


def refused(alert: Alert, *chain: Issued, check=verify, saying: str = "", **options) -> str:
    with pytest.raises(PeerError) as caught:
        check(*chain, **options)
    assert (caught.value.alert, saying in caught.value.reason) == (alert, True), caught.value.reason
    assert len(caught.value.reason) < 600
    return caught.value.reason


def openssl(directory: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True, timeout=PATIENCE)
