"""What handshakes are run with, as a store has it."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from handshaked.events import SessionTicket
from handshaked.handshakes.resources import StoredResources
from handshaked.model import Caller, Request, Role
from handshaked.registry.credentials import load_pem
from handshaked.registry.registration import Access
from handshaked.registry.snapshot import Query
from handshaked.registry.store import NewRegistration, Source, Store
from tests.conftest import Issue
from tests.tls.pair import Pair, client_parameters, pair

NAME = "a.example.com"


def test_a_registration_does_not_resume_what_another_owner_served_under_its_name(tmp_path: Path, issue: Issue) -> None:
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

    with closing(Store(tmp_path / "state" / "registry.db")) as store:
        store.rotate_ticket_keys(now - 1)
        first = served(1000, None)
        state = next(each.state for each in first.client_events if isinstance(each, SessionTicket))
        assert served(1000, state).completed[1].resumed
        assert not served(1001, state).completed[1].resumed
