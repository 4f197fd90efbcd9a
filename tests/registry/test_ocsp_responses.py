"""OCSP responses are checked when they are registered: certificate, issuer, status and time. Must-staple is obeyed."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handshaked.errors import RefusedError
from handshaked.registry.credentials import (
    LoadedCredential,
    check_validity,
    load_pem,
    open_credential,
    with_ocsp_response,
)
from tests.certificates import NOW, SERVER, Issued, root, server
from tests.ocsp_responses import MUST_STAPLE, ocsp_response

T = NOW.timestamp()
ROOT, OTHER = root(), root("other", number=9)
NAMESAKE = root(number=7)  # the name of ROOT with another key
LEAF = server(ROOT)
STAPLE = server(ROOT, SERVER, MUST_STAPLE)


def loaded(leaf: Issued, *chain: Issued) -> LoadedCredential:
    pem = b"".join(one.pem for one in (leaf, *chain))
    return load_pem(pem, leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def stapled(response: bytes, leaf: Issued = LEAF, *chain: Issued) -> LoadedCredential:
    return with_ocsp_response(loaded(leaf, *chain), response, name="file")


@pytest.mark.parametrize("chain", [(), (ROOT,)], ids=["leaf", "leaf-and-issuer"])
@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA256()], ids=["sha1", "sha256"])  # noqa: S303 - as above
def test_response_of_the_issuer_is_accepted(chain: tuple[Issued, ...], digest: hashes.HashAlgorithm) -> None:
    response = ocsp_response(LEAF.certificate, ROOT.certificate, digest=digest)
    found = stapled(response, LEAF, *chain)
    assert found.ocsp_response == response
    opened = open_credential(found.chain, found.key, found.key_type, response)
    assert opened.ocsp_valid == (found.staple_begin, found.staple_end)
    assert opened.has_staple(T)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (ocsp_response(server(ROOT).certificate, ROOT.certificate), "is for another certificate than CN=leaf"),
        (ocsp_response(LEAF.certificate, OTHER.certificate), "names another issuer than that of CN=leaf"),
        (ocsp_response(LEAF.certificate, NAMESAKE.certificate), "names another issuer than that of CN=leaf"),
        (ocsp_response(LEAF.certificate, ROOT.certificate, good=False), "is not good"),
        (b"junk", "no successful OCSP response in DER form"),
    ],
)
def test_response_about_something_else_is_refused(response: bytes, reason: str) -> None:
    with pytest.raises(RefusedError, match=f"file: .*{reason}"):
        stapled(response, LEAF, ROOT)


@pytest.mark.parametrize(
    ("valid", "reason"),
    [((-2, -1), "has been out of date since"), ((1, 2), "is not valid before"), ((-1, 1), ""), ((-1, None), "")],
)
def test_response_has_to_be_valid_when_it_is_registered(valid: tuple[float, float | None], reason: str) -> None:
    credential = stapled(ocsp_response(LEAF.certificate, ROOT.certificate, valid))
    if reason:
        with pytest.raises(RefusedError, match=f"the OCSP response for CN=leaf {reason}"):
            check_validity(credential, T)
    else:
        check_validity(credential, T)


def test_must_staple_requires_a_response() -> None:
    with pytest.raises(RefusedError, match="CN=leaf requires a stapled OCSP response"):
        check_validity(loaded(STAPLE, ROOT), T)
    check_validity(stapled(ocsp_response(STAPLE.certificate, ROOT.certificate), STAPLE, ROOT), T)
