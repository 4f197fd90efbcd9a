"""Settings that make no sense together are refused, and files of trust anchors are checked."""

from typing import Any

import pytest

from handshaked.control.requests.arguments import ArgumentError, Arguments
from handshaked.control.requests.policies import TrustSource, load_trust, pull_policy, pull_trust, read_trust
from handshaked.errors import RefusedError


@pytest.mark.parametrize(
    ("message", "name", "refusal"),
    [
        ({"early_data": True, "tickets": 0}, "early_data", "requires session tickets"),
        ({"client_crl": "/a"}, "client_crl", "client-crl requires client-ca"),
        ({"client_ca": "/a"}, "client_ca", "set client-auth, too"),
        ({"client_ca": "/a", "client_auth": "require", "crl_grace": 1}, "crl_grace", "requires client-crl"),
    ],
)
def test_contradicting_settings_are_refused(message: dict[str, Any], name: str, refusal: str) -> None:
    arguments = Arguments(message)
    with pytest.raises(ArgumentError, match=refusal) as error:
        pull_trust(arguments, pull_policy(arguments))
    assert error.value.name == name


@pytest.mark.parametrize("message", [{"client_auth": "require"}, {"peers": ["allow san=dns:*.example.com"]}])
def test_trust_anchors_go_with_whatever_asks_for_certificates(message: dict[str, Any]) -> None:
    arguments = Arguments({"client_ca": "/ca", "client_crl": "/crl", **message})
    assert pull_trust(arguments, pull_policy(arguments)).paths == ["/ca", "/crl"]


def test_invalid_trust_anchors_are_refused_by_path() -> None:
    with pytest.raises(RefusedError, match="/ca"):
        load_trust(TrustSource("/ca"), (b"nonsense",))
    assert load_trust(TrustSource(), ()) is None


def test_number_of_descriptors_must_match_the_files() -> None:
    with pytest.raises(RefusedError, match="0 descriptors were passed for 1 trust anchor files"):
        read_trust(TrustSource("/ca"), ())
