"""Trust stores: each verifier trusts its own anchors only."""

from __future__ import annotations

import pytest

from handshaked.errors import PeerError
from handshaked.tls.x509.verification import ServerChainVerifier
from tests.certificates import (
    root,
    server,
)
from tests.tls.x509.chains import ROOT, T, trust


class TestTrustStore:
    def test_verifiers_do_not_share_anchors(self):
        leaf = server(ROOT)
        one, other = ServerChainVerifier(trust()), ServerChainVerifier(trust(root("other", number=9)))
        one.verify((leaf.der,), "a.example", T)
        with pytest.raises(PeerError):
            other.verify((leaf.der,), "a.example", T)
        one.verify((leaf.der,), "a.example", T)
