"""Certificate chain verdicts compared with OpenSSL's; every difference is intended."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from handshaked.errors import PeerError
from handshaked.tls.x509.trust import TrustStore
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier
from tests.certificates import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    Issued,
    authority,
    client,
    issue,
    key_usage,
    names,
    root,
    server,
    usages,
)
from tests.interop.peers import OPENSSL, run

T = NOW.timestamp()
ROOT = root()
MIDDLE = issue("intermediate", ROOT, authority(), number=101)
PLAIN_ROOT = issue("root", None, key_usage("key_cert_sign"), number=100)
OWN = issue("leaf", None, names("a.example"), authority())
LEAF = server(ROOT)
ODD = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0")


def middle(*extensions: x509.ExtensionType, issuer: Issued = ROOT, **options) -> Issued:
    return issue("intermediate", issuer, *extensions, **{"number": 101, **options})


def constrained(*permitted: x509.GeneralName, excluded: tuple[x509.GeneralName, ...] = (), **options) -> Issued:
    constraints = x509.NameConstraints(permitted or None, excluded or None)
    return middle(authority(), constraints, **options)


@dataclass(frozen=True)
class Case:
    """A chain with the verdict of OpenSSL, at Debian's security level, and ours."""

    chain: tuple[Issued, ...]
    theirs: bool
    ours: bool
    anchors: tuple[Issued, ...] = (ROOT,)
    purpose: str = "sslserver"
    name: str = "a.example"


def same(verdict: bool, *chain: Issued, **options) -> Case:
    return Case(chain, verdict, verdict, **options)


def stricter(*chain: Issued, **options) -> Case:
    return Case(chain, True, False, **options)


def more_lenient(*chain: Issued, **options) -> Case:
    return Case(chain, False, True, **options)


CASES = {
    "plain": same(True, server(MIDDLE), MIDDLE),
    "no extended key usage": same(True, issue("leaf", ROOT, names("a.example"))),
    "any extended key usage": same(False, server(ROOT, usages(Usage.ANY_EXTENDED_KEY_USAGE))),
    "for clients": same(False, server(ROOT, CLIENT)),
    "client": same(True, client(ROOT), purpose="sslclient"),
    "client without extensions": same(True, issue("client", ROOT), purpose="sslclient"),
    "server's as client": same(False, server(ROOT), purpose="sslclient"),
    "leaf is an authority": same(True, server(ROOT, SERVER, authority())),
    "self-signed, own anchor": same(True, OWN, anchors=(OWN,)),
    "self-signed, unknown": same(False, OWN),
    "root without basic constraints": same(True, server(MIDDLE), MIDDLE, anchors=(PLAIN_ROOT,)),
    "unknown issuer": same(False, server(root("other", number=9))),
    "issuer of that name": same(False, server(root(number=9))),
    "expired": same(False, server(ROOT, end=NOW - DAY / 2)),
    "not yet valid": same(False, server(ROOT, begin=NOW + DAY)),
    "expired root": same(False, server(ROOT), anchors=(root(end=NOW - DAY / 2),)),
    "expired intermediate": same(False, server(MIDDLE), middle(authority(), end=NOW - DAY / 2)),
    "intermediate is no authority": same(False, server(MIDDLE), middle()),
    "path too long": same(False, server(MIDDLE), MIDDLE, anchors=(issue("root", None, authority(0), number=100),)),
    "authority without keyCertSign": same(False, server(MIDDLE), middle(authority(), key_usage("crl_sign"))),
    "authority for clients": same(False, server(MIDDLE), middle(authority(), CLIENT)),
    "unknown critical extension": same(False, server(ROOT, SERVER, ODD)),
    "RSA of 1024 bits": same(False, server(ROOT, kind="rsa1024")),
    "P-192": same(False, server(ROOT, kind="p192")),
    "Ed25519 authority": same(True, server(root(kind="ed25519")), anchors=(root(kind="ed25519"),)),
    "Ed448 authority": same(True, server(root(kind="ed448")), anchors=(root(kind="ed448"),)),
    "RSA authority": same(True, server(root(kind="rsa2048")), anchors=(root(kind="rsa2048"),)),
    "wildcard": same(True, server(ROOT, san="*.a.example"), name="b.a.example"),
    "wildcard of a top-level domain": same(False, server(ROOT, san="*.example")),
    "another name": same(False, server(ROOT, san="b.example")),
    "name permitted": same(True, server(MIDDLE), constrained(x509.DNSName("example"))),
    "name not permitted": same(False, server(MIDDLE), constrained(x509.DNSName("test"))),
    "name excluded": same(False, server(MIDDLE), constrained(excluded=(x509.DNSName("example"),))),
    "one of the names not permitted": same(
        False, server(MIDDLE, san="a.example a.test"), constrained(x509.DNSName("example"))
    ),
    "constraint on directory names": same(
        True, client(MIDDLE), constrained(x509.DirectoryName(x509.Name([]))), purpose="sslclient"
    ),
    "name permitted, Ed25519": same(
        True, server(middle(kind="ed25519")), constrained(x509.DNSName("example"), kind="ed25519")
    ),
    # Differences
    "common name alone": stricter(issue("a.example", ROOT, SERVER)),
    "partial wildcard": stricter(server(ROOT, san="w*.a.example"), name="www.a.example"),
    "no digitalSignature": stricter(server(ROOT, SERVER, key_usage("key_encipherment"))),
    "secp256k1": stricter(server(ROOT, kind="k256")),
    "secp256k1 authority": stricter(server(root(kind="k256")), anchors=(root(kind="k256"),)),
    "DSA": stricter(server(ROOT, kind="dsa")),
    "SHA-224": stricter(server(ROOT, digest=hashes.SHA224())),
    "authority for any usage": more_lenient(server(MIDDLE), middle(authority(), usages(Usage.ANY_EXTENDED_KEY_USAGE))),
    "intermediate as anchor": more_lenient(server(MIDDLE), anchors=(MIDDLE,)),
    "leaf as anchor": more_lenient(LEAF, anchors=(LEAF,)),
}


def our_verdict(case: Case) -> bool:
    trust = TrustStore([anchor.certificate for anchor in case.anchors])
    chain = tuple(each.der for each in case.chain)
    try:
        if case.purpose == "sslserver":
            ServerChainVerifier(trust).verify(chain, case.name, T)
        else:
            ClientChainVerifier(trust).verify(chain, T)
    except PeerError:
        return False
    return True


@OPENSSL
@pytest.mark.parametrize("which", CASES)
def test_verdicts_are_those_of_the_table(which, tmp_path):
    case = CASES[which]
    leaf, *others = case.chain
    for file, certificates in {"leaf": [leaf], "others": others, "anchors": case.anchors}.items():
        (tmp_path / file).write_bytes(b"".join(each.pem for each in certificates))
    untrusted = ("-untrusted", tmp_path / "others") if others else ()
    wanted = ("-verify_hostname", case.name) if case.purpose == "sslserver" else ()
    done = run(
        "openssl", "verify", "-CAfile", tmp_path / "anchors", *untrusted, "-purpose", case.purpose,
        "-auth_level", 2, "-attime", int(T), *wanted, tmp_path / "leaf",
    )  # fmt: skip
    assert (done.returncode == 0) == case.theirs, done.stdout.decode()
    assert our_verdict(case) == case.ours
