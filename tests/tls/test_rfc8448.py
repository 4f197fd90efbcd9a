"""The traces of RFC 8448 as known answers: codecs, key schedule, Finished, CertificateVerify, binders."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from handshaked.model import CipherSuite
from handshaked.tls import extensions as ext
from handshaked.tls import messages
from handshaked.tls.client_hello import pull_client_hello
from handshaked.tls.codepoints import ExtensionType, HandshakeType
from handshaked.tls.key_schedule import SHA256, KeySchedule, expand_label
from handshaked.tls.protection import RecordProtection
from handshaked.tls.signatures import signed_content, verify

SUITE = CipherSuite.AES_128_GCM_SHA256
TRACES = json.loads((Path(__file__).parents[1] / "vectors" / "rfc8448.json").read_text())


def opened(records: str, secret: bytes) -> bytes:
    """Return the handshake messages in protected records, without other records."""
    data = bytes.fromhex(records)
    protection = RecordProtection(SUITE, secret)
    content = b""
    while data:
        end = 5 + int.from_bytes(data[3:5])
        if data[0] == 23:
            content += protection.open(data[:5], data[5:end]).rstrip(b"\0")[:-1]
        data = data[end:]
    return content


def split(data: bytes) -> Iterator[bytes]:
    while data:
        end = 4 + int.from_bytes(data[1:4])
        yield data[:end]
        data = data[end:]


def client_flight(trace: dict[str, Any], secret: bytes) -> list[bytes]:
    if "client_messages" in trace:
        return [bytes.fromhex(each) for each in trace["client_messages"]]
    return list(split(opened(trace["client_records"], secret)))


def shared_secret(trace: dict[str, Any], server_hello: bytes) -> bytes:
    share = ext.pull_key_share(messages.pull_server_hello(server_hello).extensions[ExtensionType.KEY_SHARE])[1]
    private = bytes.fromhex(trace["client_private"])
    if trace["group"] == "x25519":
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(share))
    key = ec.derive_private_key(int.from_bytes(private), ec.SECP256R1())
    return key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), share))


def begun(trace: dict[str, Any]) -> KeySchedule:
    """Return a key schedule with the client's hellos in its transcript."""
    schedule = KeySchedule(SUITE)
    hellos = [bytes.fromhex(each) for each in trace["hellos"]]
    schedule.update(hellos[0])
    if len(hellos) > 1:
        schedule.replace_first_hello()
        schedule.update(hellos[1] + hellos[2])
    if "psk" in trace:
        schedule.use_psk(bytes.fromhex(trace["psk"]))
    return schedule


@pytest.mark.parametrize("trace", TRACES, ids=[each["title"] for each in TRACES])
def test_key_schedule_matches_the_trace(trace: dict[str, Any]) -> None:
    expected = {name: bytes.fromhex(value) for name, value in trace["secrets"].items()}
    derived: dict[str, bytes] = {}
    schedule = begun(trace)
    if "early_records" in trace:
        derived["c e traffic"] = schedule.derive(b"c e traffic", schedule.transcript_hash())
        assert opened(trace["early_records"], derived["c e traffic"]) == b"ABCDEF"
    server_hello = bytes.fromhex(trace["server_hello"])
    schedule.update(server_hello)
    schedule.enter_handshake(shared_secret(trace, server_hello))
    for label in ("c hs traffic", "s hs traffic"):
        derived[label] = schedule.derive(label.encode(), schedule.transcript_hash())
    flight = bytes.fromhex("".join(trace["server_messages"]))
    if "server_records" in trace:
        assert opened(trace["server_records"], derived["s hs traffic"]) == flight
    check_server_flight(schedule, flight, derived["s hs traffic"])
    after_server = schedule.transcript_hash()
    schedule.enter_application()
    for label in ("c ap traffic", "s ap traffic", "exp master"):
        derived[label] = schedule.derive(label.encode(), after_server)
    for message in client_flight(trace, derived["c hs traffic"]):
        if message[0] == HandshakeType.FINISHED:
            expected_data = SHA256.verify_data(derived["c hs traffic"], schedule.transcript_hash())
            assert messages.pull_finished(message, 32) == expected_data
        schedule.update(message)
    derived["res master"] = schedule.derive(b"res master", schedule.transcript_hash())
    if "ticket_record" in trace:
        ticket = messages.pull_new_session_ticket(opened(trace["ticket_record"], derived["s ap traffic"]))
        assert (ticket.lifetime, ticket.nonce, ticket.max_early_data) == (30, b"\0\0", 1024)
        derived["resumption"] = SHA256.resumption_psk(derived["res master"], ticket.nonce)
    assert {name: value for name, value in expected.items() if name in derived} == {
        name: value for name, value in derived.items() if name in expected
    }


def check_server_flight(schedule: KeySchedule, flight: bytes, secret: bytes) -> None:
    """Add the flight to the transcript, and check its signature and Finished."""
    leaf: x509.Certificate | None = None
    for message in split(flight):
        kind = HandshakeType(message[0])
        if kind is HandshakeType.CERTIFICATE:
            (der,) = messages.pull_certificate(message[4:]).chain
            leaf = x509.load_der_x509_certificate(der)
        elif kind is HandshakeType.CERTIFICATE_VERIFY:
            assert leaf is not None
            scheme, signature = messages.pull_certificate_verify(message)
            verify(leaf, scheme, signature, signed_content(schedule.transcript_hash(), by_server=True))
        elif kind is HandshakeType.FINISHED:
            assert messages.pull_finished(message, 32) == SHA256.verify_data(secret, schedule.transcript_hash())
        elif kind is HandshakeType.ENCRYPTED_EXTENSIONS:
            messages.pull_encrypted_extensions(message)
        elif kind is HandshakeType.CERTIFICATE_REQUEST:
            assert 0x0804 in messages.pull_certificate_request(message).signature_schemes
        schedule.update(message)


@pytest.mark.parametrize("trace", TRACES, ids=[each["title"] for each in TRACES])
def test_client_hellos_are_parsed(trace: dict[str, Any]) -> None:
    for hello in trace["hellos"][::2]:
        parsed = pull_client_hello(bytes.fromhex(hello))
        assert parsed.cipher_suites == (0x1301, 0x1303, 0x1302)
        assert parsed.server_name == "server"


def test_binder_matches_the_trace() -> None:
    trace = TRACES[1]
    hello = pull_client_hello(bytes.fromhex(trace["hellos"][0]))
    assert hello.psks is not None
    assert hello.early_data
    partial = SHA256.new(hello.raw[: -hello.psks.binders_length]).digest()
    binder = SHA256.binder(SHA256.early_secret(bytes.fromhex(trace["psk"])), b"res binder", partial)
    assert binder == hello.psks.binders[0] == bytes.fromhex(trace["secrets"]["binder"])


def test_hello_retry_request_matches_the_trace() -> None:
    retry = messages.pull_server_hello(bytes.fromhex(TRACES[2]["hellos"][1]))
    assert retry.is_retry
    cookie = ext.pull_cookie(retry.extensions[ExtensionType.COOKIE])
    assert pull_client_hello(bytes.fromhex(TRACES[2]["hellos"][2])).cookie == cookie


def test_expand_label_of_several_blocks() -> None:
    # There is no test vector for more than one block: the first must be the same, and none may repeat.
    long = expand_label(bytes(32), b"key", b"", 255, "sha256")
    assert len(long) == 255
    assert len({long[at : at + 32] for at in range(0, 224, 32)}) == 7
