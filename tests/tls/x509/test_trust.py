"""Trust stores."""

from __future__ import annotations

import pytest

from handshaked.errors import PeerError
from handshaked.tls.x509.trust import TrustStore
from handshaked.tls.x509.verification import ServerChainVerifier
from tests.authority import (
    root,
    server,
)
from tests.tls.x509.chains import INTERMEDIATE, ROOT, T, trust


class TestTrustStore:
    @pytest.mark.parametrize("anchors", [[], [b"junk"], [ROOT.der, b""]])
    def test_der(self, anchors):
        with pytest.raises(ValueError, match="trust"):
            TrustStore.from_der(anchors)

    @pytest.mark.parametrize(
        "bundle", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n"]
    )
    def test_pem(self, bundle):
        with pytest.raises(ValueError, match="trust store"):
            TrustStore.from_pem(bundle)

    def test_duplicates_count_once(self):
        assert len(TrustStore.from_pem((ROOT.pem + b"\n# a comment\n") * 3 + INTERMEDIATE.pem)) == 2

    def test_another_verifier_has_other_anchors(self):
        leaf = server(ROOT)
        one, other = ServerChainVerifier(trust()), ServerChainVerifier(trust(root("other", number=9)))
        one.verify((leaf.der,), "a.example", T)
        with pytest.raises(PeerError):
            other.verify((leaf.der,), "a.example", T)
        one.verify((leaf.der,), "a.example", T)
