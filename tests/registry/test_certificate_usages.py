"""The key usage of an own certificate is obeyed when it is loaded (RFC 8446 section 4.4.2.2)."""

import pytest

from handshaked.errors import RefusedError
from handshaked.model import KeyType
from handshaked.registry.credentials import LoadedCredential, check_purpose, load_pem
from handshaked.tls.x509.certificates import Purpose
from tests import raw_certificates as raw
from tests.certificates import key, pem_block

CODE_SIGNING = "1.3.6.1.5.5.7.3.3"


def load(*extensions: bytes, kind: str = "p256", algorithm: bytes | None = None) -> LoadedCredential:
    """Load a self-signed credential with these extensions."""
    made = raw.certificate(key(kind), raw.common_name("a"), None, *extensions, key_algorithm=algorithm)
    return load_pem(pem_block("CERTIFICATE", made.der), key_pem(kind), names=("a.pem", "a.key"))


def key_pem(kind: str) -> bytes:
    return pem_block("PRIVATE KEY", raw.private_key(key(kind)))


@pytest.mark.parametrize("bits", [(5, 6), (2,), (4,), (1, 3)])
def test_key_usage_without_digital_signature_is_refused(bits: tuple[int, ...]) -> None:
    with pytest.raises(RefusedError, match=r"^a.pem: the certificate CN=a has a key usage without digitalSignature"):
        load(raw.key_usage(*bits))


@pytest.mark.parametrize(
    ("usages", "purposes"),
    [
        ((raw.SERVER,), {Purpose.SERVER}),
        ((raw.CLIENT, CODE_SIGNING), {Purpose.CLIENT}),
        ((raw.ANY_USAGE,), set(Purpose)),
        ((), set(Purpose)),
    ],
)
def test_purposes_are_those_of_the_extended_key_usage(usages: tuple[str, ...], purposes: set[Purpose]) -> None:
    extensions = (raw.extended_usage(*usages),) if usages else ()
    loaded = load(raw.key_usage(0), *extensions)
    assert loaded.purposes == purposes
    for purpose in Purpose:
        if purpose in purposes:
            check_purpose(loaded, purpose)
        else:
            with pytest.raises(RefusedError, match=f"CN=a is not for {purpose.label}s by its extended key usage"):
                check_purpose(loaded, purpose)


def test_certificate_for_neither_servers_nor_clients_is_refused() -> None:
    with pytest.raises(RefusedError, match="is for neither servers nor clients"):
        load(raw.extended_usage(CODE_SIGNING))


def test_authority_is_accepted_as_its_own_server() -> None:
    """As `openssl req -x509` makes it: CA:TRUE, without a key usage."""
    assert load(raw.basic_constraints(True)).purposes == set(Purpose)


@pytest.mark.parametrize(
    ("parameters", "key_type"),
    [
        ((), KeyType.RSA_PSS),
        (("sha256", "sha256", 32), KeyType.RSA_PSS_SHA256),
        (("sha384", "sha384", 48), KeyType.RSA_PSS_SHA384),
        (("sha512", "sha512", 20), KeyType.RSA_PSS_SHA512),
    ],
)
def test_restricted_rsa_pss_key_has_the_type_of_its_digest(parameters: tuple[object, ...], key_type: KeyType) -> None:
    assert load(kind="rsa2048", algorithm=raw.pss_algorithm(*parameters)).key_type is key_type


@pytest.mark.parametrize("parameters", [("sha1",), ("sha256", "sha1", 20), ("sha256", "sha256", 64)])
def test_rsa_pss_key_that_no_scheme_fits_is_refused(parameters: tuple[object, ...]) -> None:
    with pytest.raises(RefusedError, match=r"^a.pem: the certificate CN=a: the RSA-PSS key is restricted to sha"):
        load(kind="rsa2048", algorithm=raw.pss_algorithm(*parameters))
