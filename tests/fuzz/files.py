"""Damaged certificates, revocation lists, keys, PKCS#12 files, OCSP responses and passphrases.

    python -m tests.fuzz.files [COUNT [SEED]]

reads COUNT (default: a million) of them. Each is accepted or refused with one of our own errors; any other exception
ends the run and prints the seed.
"""

import collections
import datetime
import functools
import ipaddress
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, pkcs12
from cryptography.x509 import ocsp

from handshaked.errors import HandshakedError
from handshaked.registry.credentials import load_keys, load_pem, load_pkcs12, open_credential, with_ocsp_response
from handshaked.tls.x509 import der
from handshaked.tls.x509.readers import (
    read_certificate,
    read_certificates,
    read_private_key,
    read_revocation_lists,
    read_trust_anchors,
    read_trust_store,
)
from handshaked.tls.x509.revocation import RevocationLists
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier
from tests import raw_certificates as raw
from tests.certificates import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    Issued,
    authority,
    crl_pem,
    issue,
    key,
    key_usage,
    name,
    names,
    pem_block,
    revocation_list,
    root,
    scoped,
)
from tests.fuzz.mutate import change

T = NOW.timestamp()
MOST_ITERATIONS = 5000
PASSPHRASE = b"passphrase"
PASSPHRASES = (None, b"", PASSPHRASE, b"p\xe4ss", b"\xff\xfe", b"nul\0nul", "pässwörd".encode(), b"x" * 2000)
_TAGS = (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A, 0x0C, 0x13, 0x16, 0x17, 0x18, 0x1E, 0x30, 0x31, 0x80, 0x82, 0xA0)


@dataclass(frozen=True)
class Kind:
    """A kind of file: intact samples in DER or PEM, and the functions of the daemon that read it."""

    samples: Sequence[bytes]
    read: Callable[[bytes, random.Random], object]
    label: str = ""


CONSTRAINTS = x509.NameConstraints(
    [
        x509.DNSName("example"),
        x509.IPAddress(ipaddress.ip_network("192.0.2.0/24")),
        x509.RFC822Name("example"),
        x509.UniformResourceIdentifier("example"),
    ],
    [x509.UniformResourceIdentifier("a.test"), x509.DirectoryName(name("nobody"))],
)
NAMES = x509.SubjectAlternativeName(
    [
        x509.DNSName("a.example"),
        x509.DNSName("*.b.example"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.RFC822Name("a@example"),
        x509.UniformResourceIdentifier("spiffe://example/a"),
        x509.DirectoryName(name("a")),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a"),
    ]
)
MORE = (
    x509.SubjectKeyIdentifier(b"\1" * 20),
    x509.AuthorityKeyIdentifier(b"\2" * 20, [x509.DirectoryName(name("a"))], 7),
    x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), ["text"])]),
    x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier("http://a.example/a.crl")], None, None, None)]
    ),
    x509.TLSFeature([x509.TLSFeatureType.status_request]),
    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"),
)


def chain(kind: str) -> tuple[Issued, Issued, Issued]:
    """Return a leaf for both purposes, its intermediate, and the root."""
    top = root(kind=kind)
    middle = issue("intermediate", top, authority(3), CONSTRAINTS, key_usage("key_cert_sign", "crl_sign"), kind=kind)
    both = x509.ExtendedKeyUsage([*SERVER, *CLIENT])
    leaf = issue("leaf", middle, NAMES, both, key_usage("digital_signature"), *MORE, kind=kind, critical=False)
    return leaf, middle, top


CHAINS = [chain(kind) for kind in ("p256", "ed25519", "rsa2048")]
PLAIN = issue("leaf", CHAINS[0][2], names("a.example"))
KEY = PLAIN.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, serialization.NoEncryption())
RESTRICTED = [
    raw.certificate(
        key("rsa2048"), raw.common_name("pss"), None, names_in_der, key_algorithm=raw.pss_algorithm(digest, digest, 20)
    ).der
    for digest in ("sha256", "sha512")
    for names_in_der in [raw.alternative_names(raw.dns("a.example"), raw.uri("spiffe://a/b"), raw.mail("a@example"))]
]
ANCHORS = read_trust_anchors([top.der for _, _, top in CHAINS], "trust")
LISTS = [
    revocation_list(top, [leaf], extensions=scope)
    for leaf, _, top in CHAINS
    for scope in ([], scoped(only_contains_ca_certs=True), [(x509.CRLNumber(3), False)])
]


def ocsp_responses() -> list[bytes]:
    """Return a response that says good, and an error."""
    leaf, middle, _ = CHAINS[0]
    builder = ocsp.OCSPResponseBuilder().add_response(
        leaf.certificate, middle.certificate, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, NOW, NOW + DAY, None, None
    )  # fmt: skip
    signed = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, middle.certificate).sign(middle.key, hashes.SHA256())
    refusal = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    return [signed.public_bytes(Encoding.DER), refusal.public_bytes(Encoding.DER)]


def keys(encoding: Encoding) -> list[bytes]:
    """Return the keys of the leaves in all forms, encrypted and not."""
    encryptions = serialization.NoEncryption(), serialization.BestAvailableEncryption(PASSPHRASE)
    made = []
    for leaf, _, _ in CHAINS:
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH):
            for encryption in encryptions if encoding is Encoding.PEM else encryptions[:1]:
                if form is PrivateFormat.OpenSSH and encoding is Encoding.DER:
                    continue
                if form is PrivateFormat.TraditionalOpenSSL and leaf.kind == "ed25519":
                    continue
                if form is PrivateFormat.OpenSSH and encryption is encryptions[1]:
                    continue  # its key derivation takes half a second
                made.append(leaf.key.private_bytes(encoding, form, encryption))
    return made


def pkcs12_files() -> list[bytes]:
    """Return PKCS#12 files with and without passphrase, with one round of key derivation."""
    leaf, middle, top = CHAINS[0]
    builder = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(1)
    encryptions = [
        serialization.NoEncryption(),
        *(
            builder.key_cert_algorithm(algorithm).hmac_hash(hashes.SHA256()).build(PASSPHRASE)
            for algorithm in (pkcs12.PBES.PBESv2SHA256AndAES256CBC, pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
        ),
    ]
    others = [middle.certificate, top.certificate]
    return [
        pkcs12.serialize_key_and_certificates(b"name", leaf.key, leaf.certificate, others, each) for each in encryptions
    ]


def use_certificate(data: bytes, rng: random.Random) -> None:
    """Use `data` as a certificate of a file, as a trust anchor, and as a certificate that a peer sends."""
    leaf, middle, top = rng.choice(CHAINS)
    match rng.randrange(6):
        case 0:
            load_keys(data, KEY)
        case 5:
            own = read_trust_anchors([data], "anchors")  # no signature protects it
            ServerChainVerifier(own).verify((data,), "a.example", T)
            ClientChainVerifier(own).verify((data,), T)
        case 1:
            anchors = read_trust_anchors([data], "anchors")
            ServerChainVerifier(anchors).verify((leaf.der, middle.der), "a.example", T)
        case 2:
            read_certificate(data, "certificate")
            ServerChainVerifier(ANCHORS, lists(rng)).verify((data, middle.der), rng.choice(("a.example", "1.2.3.4")), T)
        case 3:
            ClientChainVerifier(ANCHORS, lists(rng)).verify((data, middle.der, top.der), T)
        case _:
            ServerChainVerifier(ANCHORS).verify((leaf.der, data, middle.der), "a.example", T)


@functools.lru_cache(maxsize=4)
def _intact(choice: int) -> RevocationLists:
    return RevocationLists(read_revocation_lists(LISTS[choice], "intact"))


def lists(rng: random.Random) -> RevocationLists:
    """Return intact lists."""
    return _intact(rng.randrange(4))


def use_certificates(data: bytes, rng: random.Random) -> None:
    """Use `data` as a file of certificates, of a credential and of a trust store."""
    if rng.random() < 0.5:
        read_trust_store(data, "store")
        read_certificates(data, "certificates")
    else:
        load_pem(data, PLAIN.key_pem)


def use_lists(data: bytes, rng: random.Random) -> None:
    """Use `data` as a file of revocation lists."""
    revocations = RevocationLists(read_revocation_lists(data, "lists"))
    for below, above in pairwise(rng.choice(CHAINS)):
        revocations.check(below.certificate, above.certificate, T)


def use_key(data: bytes, rng: random.Random) -> None:
    """Use `data` as a private key file of a credential."""
    leaf, middle, _ = rng.choice(CHAINS)
    if rng.random() < 0.5:
        read_private_key(data, rng.choice(PASSPHRASES), "key", check_primes=False)
    else:
        loaded = load_pem(leaf.pem + middle.pem, data, rng.choice(PASSPHRASES), check_primes=False)
        open_credential(loaded.chain, loaded.key, loaded.key_type)


def use_der_key(data: bytes, rng: random.Random) -> None:
    """Use `data` as the payload of a key of the kernel."""
    load_keys(rng.choice(CHAINS)[0].der, data)


def use_pkcs12(data: bytes, rng: random.Random) -> None:
    """Use `data` as a PKCS#12 file, unless a count of iterations may have become large: nothing limits them here."""
    if any(data[at] == 0x02 and MOST_ITERATIONS < _number(data, at) < 1 << 63 for *_, at in elements(data)):
        return
    load_pkcs12(data, PASSPHRASE if rng.random() < 0.7 else passphrase(rng))


def passphrase(rng: random.Random) -> bytes | None:
    """Return a passphrase of any bytes."""
    return rng.choice((*PASSPHRASES, rng.randbytes(rng.randrange(40))))


CREDENTIAL = load_pem(CHAINS[0][0].pem, CHAINS[0][0].key_pem)


def use_ocsp(data: bytes, rng: random.Random) -> None:
    """Use `data` as an OCSP response."""
    with_ocsp_response(CREDENTIAL, data, name="response")


def kinds() -> list[Kind]:
    """Return all kinds; those that are read most often come several times."""
    certificates = [each.der for made in CHAINS for each in made] + [PLAIN.der, *RESTRICTED]
    files = [leaf.pem + middle.pem + top.pem for leaf, middle, top in CHAINS]
    certificate = Kind(certificates, use_certificate)
    return [
        certificate,
        certificate,
        certificate,
        Kind(files, use_certificates),
        Kind(certificates, use_certificates, "CERTIFICATE"),
        Kind(LISTS, use_lists),
        Kind(LISTS, use_lists, "X509 CRL"),
        Kind([crl_pem(LISTS[0]) + crl_pem(LISTS[1])], use_lists),
        Kind(keys(Encoding.PEM), use_key),
        Kind(keys(Encoding.DER), use_key, "PRIVATE KEY"),
        Kind(keys(Encoding.DER)[:-2], use_der_key),  # not RSA: looking for prime numbers takes all the time
        Kind(pkcs12_files(), use_pkcs12),
        Kind(ocsp_responses(), use_ocsp),
    ]


def _number(data: bytes, at: int) -> int:
    element = der.pull_element(data, at)
    return int.from_bytes(data[element.begin : element.end])


@functools.lru_cache(maxsize=256)
def elements(data: bytes) -> list[tuple[int, ...]]:
    """Return all DER elements in `data`: each the offsets of its enclosing elements, then its own."""
    return _elements(data, 0, len(data), ())


def _elements(data: bytes, begin: int, end: int, above: tuple[int, ...]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    at = begin
    while at < end:
        try:
            element = der.pull_element(data, at)
        except ValueError:
            break
        found.append((*above, at))
        constructed = element.tag & 0x20
        if constructed or (element.tag == 0x04 and element.end - element.begin > 1 and data[element.begin] == 0x30):
            found += _elements(data, element.begin, element.end, (*above, at))
        at = element.end
    return found


def mutate_element(data: bytes, rng: random.Random) -> bytes:
    """Replace one DER element, with the lengths around it corrected, so that nested parsers are reached."""
    *above, at = rng.choice(elements(data) or [(0,)])
    try:
        element = der.pull_element(data, at)
    except ValueError:
        return data
    content = bytearray(data[element.begin : element.end])
    tag = rng.choice((element.tag, element.tag, rng.choice(_TAGS)))
    match rng.randrange(5):
        case 0:
            change(content, rng)
        case 1:
            content = bytearray()
        case 2:
            content *= 2
        case 3:
            content = bytearray(rng.randbytes(rng.choice((1, 2, 5, 21))))
        case _:
            content = bytearray(rng.choice((b"\0", b"\1", b"\xff", b"\x80", b"20260101000000Z", b"\x30\0")))
    changed = _encoded(tag, bytes(content)) if rng.random() < 0.9 else b""
    if rng.random() < 0.1:
        changed *= 2
    end = element.end
    for outer in reversed(above):
        around = der.pull_element(data, outer)
        changed = _encoded(around.tag, data[around.begin : at] + changed + data[end : around.end])
        at, end = outer, around.end
    return data[:at] + changed + data[end:]


def _encoded(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + der.push_sequence(content)[1:]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to three changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if data[:1] == b"\x30" and rng.random() < 0.7:
            data = mutate_element(data, rng)
        else:
            damaged = bytearray(data)
            change(damaged, rng)
            data = bytes(damaged)
    return data


def run(count: int, seed: int, among: Sequence[Kind]) -> collections.Counter[str]:
    """Return how `count` damaged files are received, with counts."""
    endings: collections.Counter[str] = collections.Counter()
    for number in range(seed, seed + count):
        rng = random.Random(number)  # repeatable, not secret
        kind = rng.choice(among)
        data = mutate(rng.choice(kind.samples), rng)
        if kind.label:
            data = pem_block(kind.label, data)
        try:
            kind.read(data, rng)
        except HandshakedError as error:
            endings[f"{kind.read.__name__}: {type(error).__name__}"] += 1
        except BaseException:
            print(f"seed {number}", file=sys.stderr)
            raise
        else:
            endings[f"{kind.read.__name__}: accepted"] += 1
    return endings


def main() -> None:
    """Run as a script."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began = time.process_time()
    for ending, number in run(count, seed, kinds()).most_common():
        print(f"{number:9} {ending}")
    print(f"{count} files in {datetime.timedelta(seconds=round(time.process_time() - began))} of CPU")


if __name__ == "__main__":
    main()
