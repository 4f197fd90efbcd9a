"""Every reader of text files takes them as editors of other systems write them, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handshaked.configuration.handshaked_toml import load_configuration
from handshaked.control.files.drop_ins import read_drop_ins
from handshaked.errors import RefusedError
from handshaked.tls.psk_file import read_psk_file
from handshaked.tls.x509.readers import (
    read_certificates,
    read_private_key,
    read_revocation_lists,
    read_trust_store,
)
from tests.certificates import crl_pem, key, revocation_list
from tests.tls.x509.chains import ROOT

KEY = key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PSKS = b"one:" + b"00" * 16 + b"\ntwo:" + b"11" * 16 + b"\n"
READERS = {
    "certificates": (ROOT.pem, lambda content: read_certificates(content, "file")),
    "trusted certificates": (
        ROOT.pem.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE"),
        lambda content: read_certificates(content, "file"),
    ),
    "trust store": (ROOT.pem, lambda content: read_trust_store(content, "file").has(ROOT.certificate)),
    "key": (KEY, lambda content: read_private_key(content, None, "file").private_numbers()),
    "lists": (
        crl_pem(revocation_list(ROOT)) * 2,
        lambda content: [one.issuer for one in read_revocation_lists(content, "file")],
    ),
    "psks": (PSKS, lambda content: [read_psk_file(content, "file").find(name).key for name in (b"one", b"two")]),
}
FORMS = {
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "CRLF": lambda content: content.replace(b"\n", b"\r\n"),
    "both": lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"),
    "no newline at the end": lambda content: content.rstrip(b"\n"),
    "trailing blanks": lambda content: content.replace(b"\n", b" \t\n"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", READERS)
def test_text_is_read_as_other_systems_write_it(kind: str, form: str) -> None:
    content, read = READERS[kind]
    assert read(FORMS[form](content)) == read(content)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("kind", READERS)
def test_utf16_is_named_as_such(kind: str, encoding: str) -> None:
    content, read = READERS[kind]
    with pytest.raises(RefusedError, match="file: is UTF-16 text: convert it with iconv"):
        read(content.decode().encode(encoding))


def _problem(path: Path) -> None:
    found = read_drop_ins(path.parent)
    for problem in found.problems:
        raise RefusedError(str(problem))


SETTINGS = {
    "handshaked.toml": ("[limits]\nserver_timeout = 2\n", lambda path: load_configuration(path, required=True)),
    "drop-in.toml": ("# nothing\n", _problem),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_read_as_other_systems_write_them(tmp_path: Path, name: str) -> None:
    text, read = SETTINGS[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    expected = read(path)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read(path) == expected
    for encoding in ("utf-16", "utf-16-le"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(RefusedError, match=rf"{path}:1: is UTF-16 text"):
            read(path)
