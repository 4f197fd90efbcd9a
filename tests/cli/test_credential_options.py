"""A passphrase or OCSP response goes with the credential that it is given for, in every usual order of the options."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from handshaked.cli.credential_options import given_credentials
from handshaked.cli.parser import command_line
from handshaked.model import KeyType
from handshaked.testing.daemon import RunningDaemon
from tests.cli.commands import NAME, run
from tests.conftest import Issue

A, B = {"certificate": "a", "key": "ka"}, {"certificate": "b", "key": "kb"}


def given(words: str) -> list[dict[str, str]]:
    return given_credentials(command_line().parse_args(["register", "web", *words.split()]))


@pytest.mark.parametrize(
    ("words", "credentials"),
    [
        ("", []),
        ("--cert a --key ka", [A]),
        ("--cert a --cert b --key ka --key kb", [A, B]),
        ("--cert a --key ka --passphrase-file p", [A | {"passphrase": "p"}]),
        ("--passphrase-file p --cert a --key ka", [A | {"passphrase": "p"}]),
        ("--cert a --key ka --passphrase-file p --cert b --key kb", [A | {"passphrase": "p"}, B]),
        ("--cert a --key ka --cert b --key kb --passphrase-file p", [A, B | {"passphrase": "p"}]),
        ("--cert a --cert b --key ka --passphrase-file p --key kb", [A | {"passphrase": "p"}, B]),
        (
            "--cert a --key ka --cert b --key kb --passphrase-file p --passphrase-file q",
            [A | {"passphrase": "p"}, B | {"passphrase": "q"}],
        ),
        (
            "--pkcs12 c --passphrase-file p --cert a --key ka --passphrase-file q",
            [A | {"passphrase": "q"}, {"certificate": "c", "passphrase": "p"}],
        ),
        ("--pkcs12 c --pkcs12 d --passphrase-file p", [{"certificate": "c"}, {"certificate": "d", "passphrase": "p"}]),
        (
            "--cert a --key ka --ocsp o --cert b --key kb --passphrase-file p",
            [A | {"ocsp": "o"}, B | {"passphrase": "p"}],
        ),
    ],
)
def test_files_belong_to_the_credential_before_them(words: str, credentials: list[dict[str, str]]) -> None:
    assert given(words) == credentials


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--cert a", "each --cert requires a --key"),
        ("--passphrase-file p --cert a --key ka --cert b --key kb", "give each --passphrase-file after the --key"),
        (
            "--cert a --key ka --passphrase-file p --passphrase-file q --cert b --key kb --pkcs12 c",
            "give each --passphrase-file after the --key",
        ),
        ("--ocsp o", "give each --ocsp after the --key"),
    ],
)
def test_files_of_no_credential_are_a_usage_error(words: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        given(words)
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("locked", [0, 1])
def test_one_encrypted_key_among_several_is_unlocked(
    daemon: RunningDaemon, issue: Issue, tmp_path: Path, locked: int
) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("secret words\n")
    words: list[str] = []
    for number, issued in enumerate((issue(NAME, key_type=KeyType.RSA), issue(NAME))):
        encryption = BestAvailableEncryption(b"secret words") if number == locked else NoEncryption()
        key = load_pem_private_key(issued.key.read_bytes(), None)
        path = tmp_path / f"{number}.key"
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        words += [f"--cert={issued.certificate}", f"--key={path}"]
        words += [f"--passphrase-file={passphrase}"] * (number == locked)
    run(daemon, "register", "web", *words, "--alpn=h3", f"--server-name={NAME}")
    assert "rsa ecdsa-p256" in run(daemon, "list")
