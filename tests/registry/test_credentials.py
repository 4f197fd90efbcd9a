"""Loading credentials: all supported file formats, and errors that say what is wrong and what to do."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from handshaked.errors import RefusedError
from handshaked.model import MAX_HANDSHAKE_MESSAGE, KeyType
from handshaked.registry.credentials import (
    LoadedCredential,
    check_validity,
    load_pem,
    load_pkcs12,
    open_credential,
    uncovered_names,
)
from handshaked.testing.authority import Authority, Issued
from tests.conftest import Issue
from tests.tls.pair import PSS_KEYS
from tests.tls.pair import private_key as key_of

DAY = 86400
WEAK = 1024
PASSPHRASE = b"correct horse"
NAME = "a.example.com"


def private_key(issued: Issued) -> PrivateKeyTypes:
    return load_pem_private_key(issued.key.read_bytes(), None)


def encoded(key: PrivateKeyTypes, form: PrivateFormat, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def bundle(issued: Issued, *others: x509.Certificate, passphrase: bytes | None = PASSPHRASE) -> bytes:
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    key = private_key(issued)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return pkcs12.serialize_key_and_certificates(b"it", key, issued.leaf, others or None, encryption)


def self_signed(key: ec.EllipticCurvePrivateKey, extension_size: int = 0) -> bytes:
    """Return a self-signed certificate of any size."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "self")])
    now = datetime.now(UTC)
    ballast = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(extension_size))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(ballast, critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


@pytest.mark.parametrize("key_type", [kind for kind in KeyType if kind not in PSS_KEYS])
def test_pkcs8_key_of_every_type_is_loaded_and_usable(issue: Issue, key_type: KeyType) -> None:
    issued = issue(NAME, key_type=key_type)
    loaded = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
    assert loaded.key_type is key_type
    assert loaded.leaf_digest == issued.leaf.fingerprint(hashes.SHA256())
    assert loaded.names == (NAME,)
    opened = open_credential(loaded.chain, loaded.key, loaded.key_type)
    assert opened.chain == (issued.leaf.public_bytes(Encoding.DER),)
    assert key_of(opened).public_key() == issued.leaf.public_key()


@pytest.mark.parametrize("encryption", [None, BestAvailableEncryption(PASSPHRASE)], ids=["plain", "encrypted"])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL], ids=["pkcs8", "traditional"])
@pytest.mark.parametrize("key_type", [KeyType.RSA, KeyType.ECDSA_P256])  # traditional: PKCS#1 and SEC1
def test_every_key_format_gives_the_same_credential(
    issue: Issue, key_type: KeyType, form: PrivateFormat, encryption: KeySerializationEncryption | None
) -> None:
    issued = issue(NAME, key_type=key_type)
    pem = encoded(private_key(issued), form, encryption)
    loaded = load_pem(issued.certificate.read_bytes(), pem, PASSPHRASE if encryption else None)
    assert loaded == load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())


def test_chain_keeps_its_order(authority: Authority, issue: Issue) -> None:
    issued = issue(NAME)
    pem = issued.certificate.read_bytes() + authority.root.read_bytes()
    expected = (issued.leaf.public_bytes(Encoding.DER), authority.certificate.public_bytes(Encoding.DER))
    assert load_pem(pem, issued.key.read_bytes()).chain == expected
    assert load_pkcs12(bundle(issued, authority.certificate), PASSPHRASE).chain == expected


def test_pkcs12_file_gives_the_same_credential(issue: Issue) -> None:
    issued = issue(NAME)
    expected = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
    assert load_pkcs12(bundle(issued), PASSPHRASE) == expected
    assert load_pkcs12(bundle(issued, passphrase=None)) == expected


def test_repr_shows_neither_key_nor_chain(issue: Issue) -> None:
    issued = issue(NAME)
    loaded = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
    shown = repr(loaded) + repr(open_credential(loaded.chain, loaded.key, loaded.key_type))
    assert repr(loaded.key)[2:20] not in shown
    assert "chain" not in shown
    assert "key=" not in shown


def refused(certificate: bytes, key: bytes, passphrase: bytes | None = None) -> str:
    with pytest.raises(RefusedError) as caught:
        load_pem(certificate, key, passphrase, names=("cert.pem", "key.pem"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "shown"),
    [(["it's"], "CN=it's"), (["two\nlines\x1b[31m"], r"CN=two\nlines\x1b[31m"), ([], "(no subject)")],
)
def test_subject_is_one_line_without_quotes(names: list[str], shown: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert load_pem(certificate.public_bytes(Encoding.PEM), pem).subject == shown


def test_key_of_another_certificate_is_refused(issue: Issue) -> None:
    reason = refused(issue(NAME).certificate.read_bytes(), issue("b.example.com").key.read_bytes())
    assert reason == "key.pem: the private key does not match the certificate CN=a.example.com"


def test_chain_whose_leaf_is_not_first_is_refused_with_a_hint(authority: Authority, issue: Issue) -> None:
    issued = issue(NAME)
    reason = refused(authority.root.read_bytes() + issued.certificate.read_bytes(), issued.key.read_bytes())
    assert reason.endswith("it matches a later certificate of the file: put the leaf first")


def test_files_with_other_content_are_refused(issue: Issue) -> None:
    issued = issue(NAME)
    certificate, key = issued.certificate.read_bytes(), issued.key.read_bytes()
    assert refused(b"nonsense", key).startswith("cert.pem: no certificate in PEM form")
    assert refused(b"", key).startswith("cert.pem: no certificate in PEM form")
    assert refused(key, key) == "cert.pem: no certificate in PEM form but a private key"
    assert "in DER: openssl x509 -inform DER" in refused(issued.leaf.public_bytes(Encoding.DER), key)
    assert refused(certificate[:-100], key).startswith("cert.pem: line 1: this BEGIN line has no END line")
    assert refused(certificate, b"nonsense").startswith("key.pem: no readable private key in PEM form")
    assert refused(certificate, certificate).startswith("key.pem: no readable private key in PEM form")
    assert refused(certificate, key[:-100]).startswith("key.pem: line 1: this BEGIN line has no END line")


def test_missing_wrong_and_superfluous_passphrases_are_refused(issue: Issue) -> None:
    issued = issue(NAME)
    certificate = issued.certificate.read_bytes()
    locked = encoded(private_key(issued), PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE))
    assert refused(certificate, locked) == "key.pem: the private key is encrypted: give its passphrase file"
    assert "or the passphrase is wrong" in refused(certificate, locked, b"wrong")
    unlocked = issued.key.read_bytes()
    assert refused(certificate, unlocked, PASSPHRASE) == "key.pem: the private key is not encrypted"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: dsa.generate_private_key(WEAK), "DSA keys are not supported; use ECDSA, Ed25519"),
        (x25519.X25519PrivateKey.generate, "X25519 keys are not supported; use ECDSA, Ed25519"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "secp256k1 is not supported; use P-256, P-384 or P-521"),
        (lambda: rsa.generate_private_key(65537, WEAK), "an RSA key of 1024 bits is too weak; use 2048 or more"),
    ],
    ids=["dsa", "x25519", "secp256k1", "rsa-1024"],
)
def test_unsupported_keys_are_refused(issue: Issue, make: object, reason: str) -> None:
    assert callable(make)
    assert reason in refused(issue(NAME).certificate.read_bytes(), encoded(make(), PrivateFormat.PKCS8))


def test_chain_beyond_the_limits_of_clients_is_refused(authority: Authority, issue: Issue) -> None:
    issued = issue(NAME)
    root = authority.root.read_bytes()
    reason = refused(issued.certificate.read_bytes() + 10 * root, issued.key.read_bytes())
    assert reason == "cert.pem: 11 certificates, the limit is 10"
    # Peers have limits like ours: they would refuse a larger Certificate message.
    key = ec.generate_private_key(ec.SECP256R1())
    pem = self_signed(key, MAX_HANDSHAKE_MESSAGE)
    reason = refused(pem, encoded(key, PrivateFormat.PKCS8))
    assert "bytes of certificates, the limit is" in reason


def test_unusable_pkcs12_file_is_refused(authority: Authority, issue: Issue) -> None:
    def reason(data: bytes, passphrase: bytes | None) -> str:
        with pytest.raises(RefusedError) as caught:
            load_pkcs12(data, passphrase, name="it.p12")
        return str(caught.value)

    assert reason(bundle(issue(NAME)), b"wrong").startswith("it.p12: not readable as PKCS#12, or a wrong passphrase")
    assert reason(bundle(issue(NAME)), None).startswith("it.p12: not readable as PKCS#12, or a wrong passphrase")
    assert reason(b"nonsense", None).startswith("it.p12: not readable as PKCS#12, or a wrong passphrase")
    keyless = pkcs12.serialize_key_and_certificates(b"it", None, issue(NAME).leaf, None, NoEncryption())
    assert reason(keyless, None) == "it.p12: holds no private key with its certificate"


@pytest.fixture
def valid_from_tomorrow_for_a_day(authority: Authority) -> LoadedCredential:
    issued = authority.issue(NAME, valid=(1, 2), file_name="tomorrow")
    return load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())


def test_leaf_is_refused_before_and_after_its_validity(valid_from_tomorrow_for_a_day: LoadedCredential) -> None:
    credential, now = valid_from_tomorrow_for_a_day, time.time()
    with pytest.raises(RefusedError, match=r"the certificate CN=a.example.com is not valid before \d{4}-\d\d-\d\d"):
        check_validity(credential, now)
    check_validity(credential, now + 1.5 * DAY)
    with pytest.raises(RefusedError, match=r"the certificate CN=a.example.com expired on \d{4}-\d\d-\d\d"):
        check_validity(credential, now + 3 * DAY)


def test_names_not_covered_by_a_certificate_are_found(issue: Issue) -> None:
    issued = issue("example.com", "*.example.com", "192.0.2.1")
    loaded = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
    assert uncovered_names(loaded.names, ("example.com", "a.example.com", "*.example.com")) == []
    assert uncovered_names(loaded.names, ("a.b.example.com", "*.b.example.com", "example.org")) == [
        "a.b.example.com",
        "*.b.example.com",
        "example.org",
    ]
