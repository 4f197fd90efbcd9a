"""The configured files of the kernel's sides: unusable ones are refused at once, without blocking."""

import dataclasses
import os
from pathlib import Path

import pytest

from handshaked.configuration.handshaked_toml import SideDefaults
from handshaked.errors import RefusedError
from handshaked.handshakes.peer_policy import load_side
from handshaked.model import Role
from handshaked.tls.x509.readers import MAX_LIST
from tests.conftest import Issue


@pytest.mark.parametrize("name", ["trust", "revocation_lists", "certificate"])
def test_fifo_is_refused_without_blocking(tmp_path: Path, issue: Issue, name: str) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o600)
    defaults = SideDefaults(private_key=issue("a.example.com").key) if name == "certificate" else SideDefaults()
    value = (path,) if name == "revocation_lists" else path
    with pytest.raises(RefusedError, match=f"{path}: not a regular file"):
        load_side(dataclasses.replace(defaults, **{name: value}), Role.CLIENT)


def test_revocation_list_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "crl"
    with path.open("wb") as file:
        file.truncate(MAX_LIST + 2)
    with pytest.raises(RefusedError, match=f"{path}: {MAX_LIST + 2} bytes, the limit is {MAX_LIST}"):
        load_side(SideDefaults(revocation_lists=(path,)), Role.CLIENT)
