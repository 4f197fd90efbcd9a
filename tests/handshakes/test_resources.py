"""The resources of handshakes, as read from the registry."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from handshaked.errors import Alert, LocalError, PeerError, Status
from handshaked.events import SessionTicket
from handshaked.handshakes.resources import StoredResources
from handshaked.model import Caller, Request, Role
from handshaked.registry.credentials import load_pem
from handshaked.registry.registration import Access
from handshaked.registry.settings import Policy
from handshaked.registry.snapshot import Query
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import ClientTrust, NewRegistration, Source
from handshaked.testing.authority import Issued
from handshaked.tls.parameters import ClientCertificateVerifier
from tests.certificates import DAY, NOW, client, crl_pem, revocation_list
from tests.conftest import Issue
from tests.tls.pair import Pair, client_parameters, pair
from tests.tls.x509.chains import INTERMEDIATE, ROOT

NAME = "a.example.com"


class TestRevocationLists:
    """Workers read a registration's lists with the reader that checked them."""

    CLIENT = client(ROOT)
    NONE = revocation_list(INTERMEDIATE)
    LIST = revocation_list(ROOT, [CLIENT])

    def verifier(self, path: Path, issued: Issued, revocations: bytes, grace: int = 0) -> ClientCertificateVerifier:
        credential = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
        trust = ClientTrust(ROOT.pem, revocations, "ca.pem", "list.crl")
        policy = Policy(client_auth="require", crl_grace=grace)
        new = NewRegistration("web", 0, (NAME,), (b"h3",), ((credential, Source()),), policy=policy, client_trust=trust)
        with closing(SqliteRegistryWriter(path / "state" / "registry.db")) as store:
            store.register(new)
            selection = store.load().select(Query(Caller(0), NAME, (b"h3",)))
            parameters = StoredResources(store).answer(Request(Role.SERVER, Caller(0), 1.0), selection, b"tp")
        assert parameters.client_verifier is not None
        return parameters.client_verifier

    @pytest.mark.parametrize(
        "revocations",
        [LIST, crl_pem(LIST), crl_pem(NONE) + b"# text\n" + crl_pem(LIST)],
        ids=["der", "pem", "second-in-pem"],
    )
    def test_revoked_client_is_refused(self, tmp_path: Path, issue: Issue, revocations: bytes) -> None:
        verifier = self.verifier(tmp_path, issue(NAME), revocations)
        with pytest.raises(PeerError) as caught:
            verifier.verify((self.CLIENT.der,), NOW.timestamp())
        assert caught.value.alert is Alert.CERTIFICATE_REVOKED

    def test_list_past_its_next_update_is_accepted_for_the_grace_of_the_registration(
        self, tmp_path: Path, issue: Issue
    ) -> None:
        end = NOW.timestamp() + DAY.total_seconds()
        other = client(ROOT)
        for grace in (0, 2):
            verifier = self.verifier(tmp_path / str(grace), issue(NAME), self.LIST, grace)
            verifier.verify((other.der,), end + grace * 3600)
            with pytest.raises(PeerError, match="the revocation list of CN=root is out of date"):
                verifier.verify((other.der,), end + grace * 3600 + 1)
            with pytest.raises(PeerError, match="was revoked by its issuer"):
                verifier.verify((self.CLIENT.der,), end + 1)

    @pytest.mark.parametrize("revocations", [b"", b"junk", LIST[:-1]])
    def test_unreadable_list_is_an_error(self, tmp_path: Path, issue: Issue, revocations: bytes) -> None:
        with pytest.raises(LocalError, match=r"client certificates cannot be verified: list\.crl: ") as caught:
            self.verifier(tmp_path, issue(NAME), revocations)
        assert caught.value.status == Status.NO_KEY


def test_session_of_another_owners_registration_is_not_resumed(tmp_path: Path, issue: Issue) -> None:
    issued = issue(NAME)
    credential = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
    new = NewRegistration("web", 1000, (NAME,), (b"h3",), ((credential, Source("", "", "")),), Access())
    now = time.time()
    client = client_parameters(alpns=(b"h3",), server_name=NAME)

    def served(owner: int, state: bytes | None) -> Pair:
        store.register(replace(new, owner=owner), replace=True)
        selection = store.load().select(Query(Caller(0), NAME, (b"h3",)))
        request = Request(Role.SERVER, Caller(0), 1.0)
        parameters = StoredResources(store).answer(request, selection, b"tp")
        return pair(replace(client, session_ticket=state), parameters, now=now).run()

    with closing(SqliteRegistryWriter(tmp_path / "state" / "registry.db")) as store:
        store.rotate_ticket_keys(now - 1)
        first = served(1000, None)
        state = next(each.state for each in first.client_events if isinstance(each, SessionTicket))
        assert served(1000, state).completed[1].resumed
        assert not served(1001, state).completed[1].resumed
