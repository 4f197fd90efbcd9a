"""Binding of session tickets, on both sides (RFC 8446 section 2.2): another configuration does not resume."""

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handshaked.errors import Alert, PeerError
from handshaked.events import SessionTicket
from handshaked.model import ClientAuth, Level
from handshaked.tls.client_offer import ClientOffer
from handshaked.tls.parameters import ClientParameters, Credential, ServerParameters, Tickets
from handshaked.tls.psk import ExternalPsk
from handshaked.tls.resumption import bindings, pull_resumption, push_resumption
from handshaked.tls.tickets import RotatingTicketKeys
from tests.tls.pair import NOW, client_parameters, credential, pair, server_parameters

TICKETS = Tickets(RotatingTicketKeys([(NOW - 100, bytes(range(32)))]))
PSK = ExternalPsk(b"identity", bytes(range(32)))
OTHER_PSK = ExternalPsk(b"identity", bytes(32))


@dataclass(frozen=True)
class Trusting:
    """A verifier of clients and of servers, and a source of PSKs; it accepts everything."""

    trust: bytes = b""

    def verify(self, chain: tuple[bytes, ...], *rest: object) -> None:
        return

    def find(self, identity: bytes) -> ExternalPsk | None:
        return PSK if identity == PSK.identity else None


# The server's side. The client's state is bound anew, so that only the server can refuse the ticket.


@dataclass(frozen=True)
class Server:
    """A configuration: everything that a ticket is bound to."""

    quic: bool = True
    certificate: bool = True
    psks: bool = False
    client_auth: ClientAuth = ClientAuth.NONE
    trust: bytes = b"one"
    alpn: bytes = b"h3"
    registration: str | None = None
    owner: int = 0

    @property
    def parameters(self) -> ServerParameters:
        return server_parameters(
            credential=credential() if self.certificate else None,
            psks=Trusting() if self.psks else None,
            client_auth=self.client_auth,
            client_verifier=Trusting(self.trust) if self.client_auth else None,
            alpn=self.alpn,
            registration=self.registration,
            owner=self.owner,
            tickets=TICKETS,
        )

    @property
    def bound(self) -> "Server":
        """The configuration without what has no effect."""
        return self if self.client_auth else dataclasses.replace(self, trust=b"")


SERVERS = st.builds(
    Server,
    quic=st.booleans(),
    certificate=st.booleans(),
    psks=st.booleans(),
    client_auth=st.sampled_from(ClientAuth),
    trust=st.sampled_from([b"one", b"two"]),
    alpn=st.sampled_from([b"h3", b"h2"]),
    registration=st.sampled_from([None, "web"]),
    owner=st.sampled_from([0, 1000]),
)
OURS = credential(name="client")


def ticket_of(server: Server, ours: Credential | None = OURS) -> bytes:
    """Return the state of a ticket of `server`, for a client with a certificate."""
    client = client_parameters(credential=ours)
    done = pair(client, server.parameters, quic=server.quic).run()
    (ticket,) = (each for each in done.client_events if isinstance(each, SessionTicket))
    return ticket.state


def bound_anew(state: bytes, client: ClientParameters, *, quic: bool) -> bytes:
    content = pull_resumption(state)
    binding = bindings(client, quic=quic).by_certificate
    assert content is not None
    assert binding is not None
    return push_resumption(dataclasses.replace(content, binding=binding))


def resumes(state: bytes, server: Server, ours: Credential | None = OURS) -> bool:
    """Return whether `server` resumes the session of a client that offers `state` whatever it is bound to."""
    client = client_parameters(credential=ours)
    client = dataclasses.replace(client, session_ticket=bound_anew(state, client, quic=server.quic))
    asked = pair(client, server.parameters, quic=server.quic)
    if server.certificate:
        return asked.run().completed[1].resumed
    with pytest.raises(PeerError) as caught:  # nothing else authenticates the server
        asked.run()
    assert caught.value.alert is Alert.UNKNOWN_PSK_IDENTITY
    return False


@settings(max_examples=60, deadline=None)
@given(first=SERVERS, second=SERVERS)
def test_server_resumes_exactly_the_sessions_of_its_own_configuration(first: Server, second: Server) -> None:
    first = dataclasses.replace(first, certificate=True)  # a server without certificate issues no tickets
    state = ticket_of(first)
    assert resumes(state, first)
    assert resumes(state, second) is (first.bound == second.bound)


CHANGES: list[dict[str, object]] = [
    {"quic": False},
    {"certificate": False, "psks": True},
    {"psks": True},
    {"client_auth": ClientAuth.REQUEST},
    {"client_auth": ClientAuth.REQUIRE},
    {"alpn": b"h2"},
    {"registration": "web"},
    {"owner": 1000},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: " ".join(change))
@pytest.mark.parametrize("client_auth", [ClientAuth.NONE, ClientAuth.REQUEST])
def test_each_difference_between_servers_refuses_the_ticket(change: dict[str, object], client_auth: ClientAuth) -> None:
    one = Server(client_auth=client_auth)
    other = dataclasses.replace(one, **change)
    if other != one:
        assert not resumes(ticket_of(one), other)
        if other.certificate:
            assert not resumes(ticket_of(other), one)


@pytest.mark.parametrize("ours", [None, OURS], ids=["anonymous", "authenticated"])
def test_ticket_falls_with_the_authorities_of_clients(ours: Credential | None) -> None:
    one = Server(client_auth=ClientAuth.REQUEST)
    state = ticket_of(one, ours)
    assert resumes(state, one, ours)
    assert not resumes(state, dataclasses.replace(one, trust=b"two"), ours)


@pytest.mark.parametrize("quic", [True, False])
@pytest.mark.parametrize("client_auth", [ClientAuth.NONE, ClientAuth.REQUIRE])
def test_ticket_of_a_certificate_server_does_not_complete_with_external_psks_only(
    client_auth: ClientAuth, quic: bool
) -> None:
    state = ticket_of(Server(quic=quic, client_auth=client_auth))
    for how in (ClientAuth.NONE, client_auth):
        assert not resumes(state, Server(quic=quic, certificate=False, psks=True, client_auth=how))


# The client's side: whether it offers the ticket.


@dataclass(frozen=True)
class Client:
    """A configuration: everything that a session is bound to."""

    quic: bool = True
    trust: bytes | None = None
    psk: ExternalPsk | None = None
    name: str | None = None

    @property
    def parameters(self) -> ClientParameters:
        return client_parameters(
            verifier=None if self.trust is None else Trusting(self.trust),
            psk=self.psk,
            credential=None if self.name is None else credential(name=self.name),
        )

    def offers(self, state: bytes) -> bool:
        parameters = dataclasses.replace(self.parameters, session_ticket=state)
        offer = ClientOffer(parameters, quic=self.quic, now=NOW)
        return any(psk.resumption is not None for psk in offer.psks)

    def state(self) -> bytes:
        """Return the state of the ticket of a server with a certificate."""
        done = pair(self.parameters, server_parameters(tickets=TICKETS), quic=self.quic).run()
        (ticket,) = (each for each in done.client_events if isinstance(each, SessionTicket))
        return ticket.state


CLIENTS = st.builds(
    Client,
    quic=st.booleans(),
    trust=st.sampled_from([None, b"one", b"two"]),
    psk=st.sampled_from([None, PSK, OTHER_PSK]),
    name=st.sampled_from([None, "client", "other"]),
)


@settings(max_examples=60, deadline=None)
@given(first=CLIENTS, second=CLIENTS)
def test_client_offers_a_ticket_only_if_it_would_accept_its_server_in_the_same_way(
    first: Client, second: Client
) -> None:
    if first.trust is None:  # the server authenticates itself with a certificate only
        first = dataclasses.replace(first, psk=None)
    state = first.state()
    same = (first.quic, first.name, first.trust) == (second.quic, second.name, second.trust)
    accepted = second.trust is not None or second.psk is None
    assert first.offers(state)
    assert second.offers(state) is (same and accepted)


@pytest.mark.parametrize(
    ("client", "offers"),
    [
        (Client(psk=PSK), True),
        (Client(psk=PSK, trust=b"one"), True),
        (Client(psk=OTHER_PSK), False),
        (Client(psk=dataclasses.replace(PSK, identity=b"other")), False),
        (Client(psk=PSK, quic=False), False),
        (Client(psk=PSK, name="client"), False),
        (Client(trust=b"one"), False),
        (Client(), False),
    ],
)
def test_session_of_a_psk_is_resumed_with_that_psk_only(client: Client, offers: bool) -> None:
    content = pull_resumption(Client(trust=b"one").state())
    binding = bindings(Client(psk=PSK).parameters, quic=True).by_psk
    assert content is not None
    assert binding is not None
    assert client.offers(push_resumption(dataclasses.replace(content, binding=binding))) is offers


def test_resumption_keeps_the_binding_of_the_first_handshake() -> None:
    client = Client(trust=b"one", psk=PSK)
    again = dataclasses.replace(client.parameters, session_ticket=client.state())
    done = pair(again, server_parameters(tickets=TICKETS)).run()
    (ticket,) = (each for each in done.client_events if isinstance(each, SessionTicket))
    assert done.completed[0].resumed
    assert Client(trust=b"one").offers(ticket.state)
    assert not Client(psk=PSK).offers(ticket.state)


def test_ticket_is_not_offered_over_the_other_transport() -> None:
    for quic in (True, False):
        state = Client(quic=quic).state()
        hello = pair(client_parameters(session_ticket=state), quic=not quic).client.start(NOW)
        assert len(hello) == 1
        assert not Client(quic=not quic).offers(state)
        assert Level.EARLY not in [getattr(event, "level", None) for event in hello]
