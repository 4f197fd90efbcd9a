"""Keying material for the application (RFC 8446 section 7.5)."""

import pytest

from handshaked.errors import LocalError
from handshaked.model import Level
from tests.tls.pair import NOW, pair


def test_both_sides_export_the_same_keying_material() -> None:
    done = pair().run()
    keys = {
        (side, label, context): getattr(done, side).export(label, context, 64)
        for side in ("client", "server")
        for label in (b"EXPORTER-a", b"EXPORTER-b")
        for context in (b"", b"context")
    }
    assert len(set(keys.values())) == 4
    assert all(keys["server", label, context] == key for (_, label, context), key in keys.items())


def test_nothing_is_exported_before_the_handshake_is_complete() -> None:
    done = pair()
    with pytest.raises(LocalError):
        done.client.export(b"EXPORTER-a", b"", 32)
    hello = done.client.start(NOW)
    done.server.receive(Level.INITIAL, hello[0].data, NOW)
    done.server.proceed(done.parameters, NOW)
    with pytest.raises(LocalError):
        done.server.export(b"EXPORTER-a", b"", 32)
