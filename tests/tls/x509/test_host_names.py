"""One rule for the names of servers: registered, sent in server_name, received in it, and verified."""

from __future__ import annotations

import pytest

from handshaked.errors import CallerError, PeerError, RefusedError
from handshaked.registry.names import canonical_server_name, sni_of
from handshaked.session.registered import client_host
from handshaked.tls import extensions as ext
from handshaked.tls.codec import push_vector16
from handshaked.tls.x509.host_names import canonical_host_name, covers
from tests.certificates import server
from tests.tls.x509.chains import ROOT, verify

GOOD = [
    "a.example",
    "_service.a.example",
    "a_b.example",
    "_.example",
    "A.Example.",
    "bücher.example",
    "localhost",
    "1a.2",
]
BAD = ["", ".", "a..b", "-a.example", "a-.example", "a b", "*.example", "a.*.example", "a" * 64, "a." * 127 + "a"]
ADDRESSES = ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::1%eth0", "[2001:db8::1]"]


def received(name: str) -> str | None:
    """Return what a server takes from server_name."""
    return ext.pull_server_name(push_vector16(b"\0" + push_vector16(name.encode())))


@pytest.mark.parametrize("name", GOOD)
def test_host_name_is_accepted_at_every_place(name):
    canonical = canonical_host_name(name)
    assert canonical_server_name(name) == client_host(name) == received(canonical) == canonical
    assert ext.is_dns_name(canonical)
    assert covers(canonical.upper(), canonical)
    verify(server(ROOT, san=canonical), server_name=name)


@pytest.mark.parametrize("name", BAD)
def test_other_name_is_refused_at_every_place(name):
    for take, error in ((canonical_host_name, RefusedError), (client_host, CallerError)):
        with pytest.raises(error):
            take(name)
    with pytest.raises(CallerError):
        verify(server(ROOT), server_name=name)


@pytest.mark.parametrize("name", ADDRESSES)
def test_addresses_of_both_versions_are_no_host_names(name):
    """RFC 6066 section 3: they are "not permitted" in server_name. Clients that send one get what others get."""
    with pytest.raises(RefusedError, match=r"is an IP address|is not a host name"):
        canonical_server_name(name)
    assert received(name) is sni_of(name) is None
    address = client_host(name)
    assert not ext.is_dns_name(address)
    verify(server(ROOT, san=address), server_name=name)
    with pytest.raises(PeerError, match="is not valid for"):
        verify(server(ROOT, san="192.0.2.9"), server_name=name)


@pytest.mark.parametrize("name", ["a b.example", "a\0.example", "ä.example", "2001:db8::1::", "a/b"])
def test_server_name_of_other_characters_is_refused(name):
    with pytest.raises(PeerError, match="must be a DNS name"):
        received(name)


@pytest.mark.parametrize(
    ("presented", "wanted", "covered"),
    [
        ("*.a.example", "b.a.example", True),
        ("*.A.example", "_b.a.example", True),
        ("*.a.example", "*.a.example", True),
        ("*.a.example", "a.example", False),
        ("*.a.example", "c.b.a.example", False),
        ("*.example", "a.example", False),
        ("*.example", "*.example", False),
        ("*", "a", False),
        ("a.example", "*.example", False),
        ("b*.a.example", "b1.a.example", False),
        ("*.*.example", "b.a.example", False),
        ("a.example.", "a.example", False),
    ],
)
def test_wildcard_covers_one_label(presented, wanted, covered):
    assert covers(presented, wanted) is covered
