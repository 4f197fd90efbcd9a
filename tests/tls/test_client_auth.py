"""Client certificates: none, requested, required; and the alerts of the verifier."""

from dataclasses import dataclass, field

import pytest

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.model import ClientAuth, KeyType
from tests.tls.pair import PSS_KEYS, client_parameters, credential, pair, server_parameters


@dataclass
class Verifier:
    """Accepts all chains, or refuses with an alert; records them."""

    alert: Alert | None = None
    trust: bytes = b"all"
    seen: list[tuple[bytes, ...]] = field(default_factory=list)

    def verify(self, chain: tuple[bytes, ...], now: float) -> None:
        self.seen.append(chain)
        if self.alert is not None:
            raise PeerError(self.alert, "refused")


@pytest.mark.parametrize("key_type", [each for each in KeyType if each not in PSS_KEYS])
def test_client_certificate_is_verified_and_reported(key_type: KeyType) -> None:
    verifier = Verifier()
    ours = credential(key_type, "client")
    server = server_parameters(client_auth=ClientAuth.REQUIRE, client_verifier=verifier)
    done = pair(client_parameters(credential=ours), server).run()
    assert done.completed[1].peer_certificates == ours.chain
    assert verifier.seen == [ours.chain]
    assert len(done.secrets()) == 4


def test_requested_certificate_may_be_missing() -> None:
    verifier = Verifier()
    server = server_parameters(client_auth=ClientAuth.REQUEST, client_verifier=verifier)
    done = pair(server=server).run()
    assert done.completed[1].peer_certificates == ()
    assert verifier.seen == []


def test_required_certificate_must_not_be_missing() -> None:
    server = server_parameters(client_auth=ClientAuth.REQUIRE, client_verifier=Verifier())
    with pytest.raises(PeerError) as caught:
        pair(server=server).run()
    assert caught.value.alert is Alert.CERTIFICATE_REQUIRED


@pytest.mark.parametrize("alert", [Alert.UNKNOWN_CA, Alert.CERTIFICATE_EXPIRED, Alert.UNSUPPORTED_CERTIFICATE])
@pytest.mark.parametrize("mode", [ClientAuth.REQUEST, ClientAuth.REQUIRE])
def test_alert_of_the_verifier_is_sent(alert: Alert, mode: ClientAuth) -> None:
    server = server_parameters(client_auth=mode, client_verifier=Verifier(alert))
    with pytest.raises(PeerError) as caught:
        pair(client_parameters(credential=credential(name="client")), server).run()
    assert caught.value.alert is alert


def test_certificate_is_not_sent_without_a_request() -> None:
    done = pair(client_parameters(credential=credential(name="client"))).run()
    assert done.completed[1].peer_certificates == ()


def test_requesting_without_a_verifier_is_a_local_error() -> None:
    with pytest.raises(LocalError):
        pair(server=server_parameters(client_auth=ClientAuth.REQUEST)).run()


@dataclass
class ServerVerifier:
    """Refuses all servers."""

    trust = b"none"

    seen: list[str] = field(default_factory=list)

    def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
        self.seen.append(server_name)
        raise PeerError(Alert.UNKNOWN_CA, "refused")


def test_server_certificate_is_refused_by_the_verifier() -> None:
    verifier = ServerVerifier()
    with pytest.raises(PeerError) as caught:
        pair(client_parameters(verifier=verifier)).run()
    assert caught.value.alert is Alert.UNKNOWN_CA
    assert verifier.seen == ["a.test"]
