"""UdpForwarder: bounds, idleness, the crowd at the shared socket, and what is learned of connection IDs."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from handshaked.demux import segmentation
from handshaked.demux.connection_ids import ConnectionIds
from handshaked.demux.forwarder import ForwardedFlow, ForwarderBounds, UdpForwarder, proxy_header
from handshaked.demux.shared_port import LocalSocket, open_shared
from handshaked.testing.smb_server import free_port
from handshaked.wire.addresses import Address

SERVER_CID, OTHER_CID = b"of server", b"of server too"[:9]


class Stage:
    """A relay's surroundings: a client, a server, and a local address between them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.server = self.endpoint()
        self.target: Address = self.server.getsockname()
        self.local = LocalSocket(
            stack.enter_context(open_shared(("127.0.0.1", free_port()))), lambda *_: None, lambda _: None
        )
        self.connection_ids: ConnectionIds[object, ForwardedFlow] = ConnectionIds()

    def endpoint(self) -> socket.socket:
        """A socket of a client or a server."""
        sock = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        return sock

    def relays(self, **bounds: float) -> UdpForwarder:
        """UdpForwarder with the given bounds."""
        made = UdpForwarder(ForwarderBounds(**bounds), self.connection_ids)  # type: ignore[arg-type] # numbers, as the bounds have them
        self._stack.callback(lambda: made.sweep(1e9))
        return made

    def forward(self, relays: UdpForwarder, client: socket.socket, now: float = 0.0) -> ForwardedFlow | None:
        """A relay for `client`."""
        return relays.forward(self.local, client.getsockname(), self.target, "source", now, proxy=False)

    def establish(
        self, relays: UdpForwarder, relay: ForwardedFlow, client: socket.socket, cid: bytes = SERVER_CID
    ) -> Address:
        """Let the server answer and the client use what it said; the relay's address as the server sees it."""
        relays.from_client(relay, b"\xc0 hello")
        _, address = self.server.recvfrom(100)
        self.server.sendto(b"\xc0\0\0\0\1\0" + bytes([len(cid)]) + cid + b"answer", address)
        self.run(relays, client)
        client.sendto(b"\x40" + cid + b"data", self.local.address)
        if relay.client_socket is None:
            relays.from_client(relay, self.local.socket.recv(100))
        else:
            self.run(relays, self.server)
        assert relay.established
        return address  # type: ignore[no-any-return] # of a socket

    def run(self, relays: UdpForwarder, receiver: socket.socket) -> bytes:
        """Have what is on its way passed on until `receiver` has a datagram; that."""
        receiver.settimeout(0)
        for _ in range(1_000_000):
            relays.run(0.0)
            try:
                return receiver.recv(2000)
            except BlockingIOError:
                continue
        raise AssertionError("nothing came")


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage of a test's own."""
    with ExitStack() as stack:
        yield Stage(stack)


@pytest.mark.parametrize("connected", [0, 10])
def test_datagrams_pass_both_ways(stage: Stage, connected: int) -> None:
    relays, client = stage.relays(connected=connected), stage.endpoint()
    relay = stage.forward(relays, client)
    assert relay is not None
    assert (relay.client_socket is None) == (connected == 0)
    assert (relays.on_shared_socket(stage.local, client.getsockname()) is relay) == (connected == 0)
    address = stage.establish(relays, relay, client)
    stage.server.sendto(b"more", address)
    assert stage.run(relays, client) == b"more"
    relays.close(relay)
    assert len(relays) == relays.connected == 0
    assert relays.on_shared_socket(stage.local, client.getsockname()) is None


@pytest.mark.parametrize("connected", [0, 10])
def test_a_train_of_datagrams_comes_out_as_it_went_in(stage: Stage, connected: int) -> None:
    relays, client = stage.relays(connected=connected), stage.endpoint()
    relay = stage.forward(relays, client)
    assert relay is not None
    address = stage.establish(relays, relay, client)
    sent = [bytes([number]) * 1000 for number in range(1, 6)] + [b"short"]
    stage.server.connect(address)
    segmentation.send(stage.server, b"".join(sent), 1000)
    assert [stage.run(relays, client), *(client.recv(2000) for _ in sent[1:])] == sent
    if connected:
        client.connect(stage.local.address)
        segmentation.send(client, b"".join(sent), 1000)
        assert [stage.run(relays, stage.server), *(stage.server.recv(2000) for _ in sent[1:])] == sent


def test_a_train_to_whom_takes_none_goes_one_by_one(stage: Stage) -> None:
    relays, client = stage.relays(), stage.endpoint()
    pair = relays.pair(stage.local, client.getsockname(), "source", 0.0)
    assert pair is not None
    with pair[1] as end:
        relays.from_client(pair[0], b"onetwoend", 3)
        assert [end.recv(100) for _ in range(3)] == [b"one", b"two", b"end"]
    proxied = relays.forward(stage.local, stage.endpoint().getsockname(), stage.target, "source", 0.0, proxy=True)
    assert proxied is not None
    relays.from_client(proxied, b"onetwoen", 3)
    assert [stage.server.recv(100)[28:] for _ in range(3)] == [b"one", b"two", b"en"]


def test_a_train_that_is_too_long_for_one_call_goes_in_many(stage: Stage) -> None:
    client, others = stage.endpoint(), stage.server
    client.connect(others.getsockname())
    sent = b"".join(number.to_bytes(2) for number in range(200))
    with pytest.raises(OSError, match="Invalid argument"):
        client.sendmsg([sent], [(socket.IPPROTO_UDP, 103, (2).to_bytes(2, "little"))])
    segmentation.send(client, sent, 2)
    assert b"".join(others.recv(100) for _ in range(200)) == sent


def test_established_relays_stay_when_others_make_room(stage: Stage) -> None:
    relays, client = stage.relays(flows=3), stage.endpoint()
    relay = stage.forward(relays, client)
    assert relay is not None
    stage.establish(relays, relay, client)
    strangers = [stage.endpoint() for _ in range(5)]
    made = [stage.forward(relays, stranger) for stranger in strangers]
    assert None not in made
    assert len(relays) == 3
    assert relays.branch(relay, stage.local, strangers[0].getsockname(), "source", 0.0) is not None


def test_when_all_are_established_there_is_no_room(stage: Stage) -> None:
    relays = stage.relays(flows=2)
    for number in range(2):
        client = stage.endpoint()
        relay = stage.forward(relays, client)
        assert relay is not None
        stage.establish(relays, relay, client, b"server %d" % number)
    assert stage.forward(relays, stage.endpoint()) is None


def test_relays_took_all_descriptors_where_they_are_few() -> None:
    """Those that no client has shown to be real do not make room for want of descriptors, only of relays."""
    bounds = ForwarderBounds(connected=8192)
    assert bounds.within(1024).flows == (1024 - 256) // 2
    assert bounds.within(20_000).flows == 20_000 - 1024 - 8192
    assert bounds.within(524_288) == bounds


def test_a_source_has_its_share(stage: Stage) -> None:
    relays = stage.relays(flows_per_source=2)
    made = [stage.forward(relays, stage.endpoint()) for _ in range(3)]
    assert [relay is None for relay in made] == [False, False, True]
    other = relays.forward(stage.local, stage.endpoint().getsockname(), stage.target, "another", 0.0, proxy=False)
    assert other is not None


def test_idle_relays_go_sooner_if_no_client_has_shown_to_be_real(stage: Stage) -> None:
    relays, client = stage.relays(embryonic_seconds=10.0, idle_seconds=100.0), stage.endpoint()
    relay = stage.forward(relays, client)
    assert relay is not None
    stage.establish(relays, relay, client)
    assert stage.forward(relays, stage.endpoint()) is not None
    assert (relays.sweep(9.0), relays.sweep(11.0), relays.sweep(99.0), relays.sweep(101.0)) == (0, 1, 0, 1)
    assert len(relays) == len(stage.connection_ids) == 0


def test_ids_are_learned_and_forgotten_with_the_last_path(stage: Stage) -> None:
    relays, client = stage.relays(), stage.endpoint()
    relay = stage.forward(relays, client)
    assert relay is not None
    stage.establish(relays, relay, client)
    client.sendto(b"\x40" + OTHER_CID, stage.local.address)
    stage.run(relays, stage.server)
    for cid in (SERVER_CID, OTHER_CID):
        assert stage.connection_ids.flow_of_short_header(b"\x40" + cid + b"data") is relay
    path = relays.branch(relay, stage.local, stage.endpoint().getsockname(), "source", 0.0)
    assert path is not None
    relays.close(relay)
    assert stage.connection_ids.flow(SERVER_CID) is relay
    again = relays.branch(relay, stage.local, stage.endpoint().getsockname(), "source", 0.0)
    assert again is not None
    for one in (path, again):
        relays.close(one)
    assert len(stage.connection_ids) == 0


def test_the_paths_of_a_connection_are_bounded(stage: Stage) -> None:
    relays, client = stage.relays(paths=3), stage.endpoint()
    relay = stage.forward(relays, client)
    assert relay is not None
    made = [relays.branch(relay, stage.local, stage.endpoint().getsockname(), "source", 0.0) for _ in range(3)]
    assert [path is None for path in made] == [False, False, True]


def test_strangers_do_not_make_a_relay_established(stage: Stage) -> None:
    relays, client = stage.relays(), stage.endpoint()
    relay = stage.forward(relays, client)
    assert relay is not None
    relays.from_client(relay, b"\x40 nobody gave me this")
    assert not relay.established


def test_a_path_of_a_connection_was_closed_after_seconds_for_want_of_a_handshake(stage: Stage) -> None:
    relays, client = stage.relays(embryonic_seconds=10.0, idle_seconds=100.0), stage.endpoint()
    pair = relays.pair(stage.local, client.getsockname(), "source", 0.0, established=True)
    assert pair is not None
    with pair[1]:
        assert (relays.sweep(99.0), relays.sweep(101.0)) == (0, 1)


def test_an_application_that_closes_its_end_ends_the_relay(stage: Stage) -> None:
    relays, client = stage.relays(), stage.endpoint()
    pair = relays.pair(stage.local, client.getsockname(), "source", 0.0)
    assert pair is not None
    relay, end = pair
    relays.from_client(relay, b"hello")
    assert end.recv(100) == b"hello"
    end.send(b"answer")
    assert stage.run(relays, client) == b"answer"
    end.close()
    relays.run(0.0)
    assert len(relays) == 0


def test_a_relay_of_a_client_that_had_one_took_the_other_ones_place_away(stage: Stage) -> None:
    relays, client = stage.relays(connected=0), stage.endpoint()
    first, second = stage.forward(relays, client), stage.forward(relays, client)
    assert first is not None
    assert second is not None
    assert len(relays) == 1
    relays.close(first)
    assert relays.on_shared_socket(stage.local, client.getsockname()) is second
    relays.close(second)
    assert len(relays) == 0


def test_a_server_that_was_not_there_was_told_of_again_and_again(stage: Stage) -> None:
    relays, client = stage.relays(connected=0), stage.endpoint()
    told: list[ForwardedFlow] = []
    relays.on_unreachable = told.append
    stage.server.close()
    relay = stage.forward(relays, client)
    assert relay is not None
    for _ in range(4):  # the first is sent, the second hears that nobody is there
        relays.from_client(relay, b"\xc0 hello")
    assert told == [relay]


def test_the_proxy_header_of_the_specification() -> None:
    assert proxy_header(("192.0.2.1", 50000), ("198.51.100.2", 443)) == bytes.fromhex(
        "0d0a0d0a000d0a515549540a2112000cc0000201c6336402c35001bb"
    )
    v6 = proxy_header(("2001:db8::1", 50000, 0, 0), ("2001:db8::2", 443, 0, 0))
    assert v6[12:16] == bytes.fromhex("21220024")
    assert len(v6) == 16 + 36
