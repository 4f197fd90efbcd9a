"""Registrations for the tests of sessions."""

import pytest

from handshaked.model import KeyType
from handshaked.testing.authority import Authority
from tests.conftest import Issue
from tests.registered import Registered
from tests.session.sessions import KEY_TYPES, NAME


@pytest.fixture(scope="module")
def registered(authority: Authority, issue: Issue) -> Registered:
    made = Registered(authority)
    made.add("web", (KeyType.ECDSA_P256, issue(NAME)), names=(NAME,), alpns=(b"h3", b"hq"))
    made.add("smb", (KeyType.RSA, issue(NAME, key_type=KeyType.RSA)), names=(NAME,), alpns=(b"smb",))
    made.add("wild", (KeyType.ECDSA_P256, issue("*.w.example.com")), names=("*.w.example.com",))
    for key_type in KEY_TYPES:
        name = f"{key_type.value}.example.com"
        made.add(key_type.value, (key_type, issue(name, key_type=key_type)), names=(name,))
    return made
