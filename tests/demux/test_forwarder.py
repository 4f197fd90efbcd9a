"""The UDP forwarder: limits, idle flows, the shared socket, and learned connection IDs."""

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from handshaked.demux import segmentation
from handshaked.demux.forwarded_flow import ForwardedFlow, ForwarderBounds, proxy_header
from tests.demux.stage import NEXT_CID, OTHER_CID, SERVER_CID, Stage
from tests.patience import PATIENCE


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Yield a stage for one test."""
    with ExitStack() as stack:
        yield Stage(stack)


@pytest.mark.parametrize("connected", [0, 10])
def test_datagrams_pass_both_ways(stage: Stage, connected: int) -> None:
    forwarder, client = stage.forwarder(connected=connected), stage.endpoint()
    flow = stage.forward(forwarder, client)
    assert flow is not None
    assert (flow.client_socket is None) == (connected == 0)
    assert forwarder.at(stage.local, client.getsockname()) is flow
    address = stage.establish(forwarder, flow, client)
    stage.server.sendto(b"more", address)
    assert stage.run(forwarder, client) == b"more"
    forwarder.close(flow)
    assert len(forwarder) == forwarder.connected == 0
    assert forwarder.at(stage.local, client.getsockname()) is None


@pytest.mark.parametrize("connected", [0, 10])
def test_batch_of_datagrams_is_forwarded_unchanged(stage: Stage, connected: int) -> None:
    forwarder, client = stage.forwarder(connected=connected), stage.endpoint()
    flow = stage.forward(forwarder, client)
    assert flow is not None
    address = stage.establish(forwarder, flow, client)
    sent = [bytes([number]) * 1000 for number in range(1, 6)] + [b"short"]
    stage.server.connect(address)
    segmentation.send(stage.server, b"".join(sent), 1000)
    assert [stage.run(forwarder, client), *(client.recv(2000) for _ in sent[1:])] == sent
    if connected:
        client.connect(stage.local.address)
        segmentation.send(client, b"".join(sent), 1000)
        assert [stage.run(forwarder, stage.server), *(stage.server.recv(2000) for _ in sent[1:])] == sent


def test_batch_is_split_for_socket_pairs_and_proxy_headers(stage: Stage) -> None:
    forwarder, client = stage.forwarder(), stage.endpoint()
    pair = forwarder.pair(stage.local, client.getsockname(), "source", 0.0)
    assert pair is not None
    with pair[1] as end:
        forwarder.from_client(pair[0], b"onetwoend", 3)
        assert [end.recv(100) for _ in range(3)] == [b"one", b"two", b"end"]
    proxied = forwarder.forward(stage.local, stage.endpoint().getsockname(), stage.target, "source", 0.0, proxy=True)
    assert proxied is not None
    forwarder.from_client(proxied, b"onetwoen", 3)
    assert [stage.server.recv(100)[28:] for _ in range(3)] == [b"one", b"two", b"en"]


def test_batch_too_long_for_one_call_is_split(stage: Stage) -> None:
    client, others = stage.endpoint(), stage.server
    client.connect(others.getsockname())
    sent = b"".join(number.to_bytes(2) for number in range(200))
    with pytest.raises(OSError, match="Invalid argument"):
        client.sendmsg([sent], [(socket.IPPROTO_UDP, 103, (2).to_bytes(2, "little"))])
    segmentation.send(client, sent, 2)
    assert b"".join(others.recv(100) for _ in range(200)) == sent


def test_established_flows_stay_when_others_make_room(stage: Stage) -> None:
    forwarder, client = stage.forwarder(flows=3), stage.endpoint()
    flow = stage.forward(forwarder, client)
    assert flow is not None
    stage.establish(forwarder, flow, client)
    strangers = [stage.endpoint() for _ in range(5)]
    made = [stage.forward(forwarder, stranger) for stranger in strangers]
    assert None not in made
    assert len(forwarder) == 3
    assert forwarder.branch(flow, stage.local, strangers[0].getsockname(), "source", 0.0) is not None


def test_no_flow_opens_when_all_are_established(stage: Stage) -> None:
    forwarder = stage.forwarder(flows=2)
    for number in range(2):
        client = stage.endpoint()
        flow = stage.forward(forwarder, client)
        assert flow is not None
        stage.establish(forwarder, flow, client, b"server %d" % number)
    assert stage.forward(forwarder, stage.endpoint()) is None


def test_flows_leave_descriptors_for_other_uses() -> None:
    """Embryonic flows are replaced when the flow limit is reached, but not when descriptors run out."""
    bounds = ForwarderBounds(connected=8192)
    assert bounds.within(1024).flows == (1024 - 256) // 2
    assert bounds.within(20_000).flows == 20_000 - 1024 - 8192
    assert bounds.within(524_288) == bounds


def test_flows_per_source_are_bounded(stage: Stage) -> None:
    forwarder = stage.forwarder(flows_per_source=2)
    made = [stage.forward(forwarder, stage.endpoint()) for _ in range(3)]
    assert [flow is None for flow in made] == [False, False, True]
    other = forwarder.forward(stage.local, stage.endpoint().getsockname(), stage.target, "another", 0.0, proxy=False)
    assert other is not None


def test_idle_flows_expire_sooner_before_they_are_established(stage: Stage) -> None:
    forwarder, client = stage.forwarder(embryonic_seconds=10.0, idle_seconds=100.0), stage.endpoint()
    flow = stage.forward(forwarder, client)
    assert flow is not None
    stage.establish(forwarder, flow, client)
    assert stage.forward(forwarder, stage.endpoint()) is not None
    assert (forwarder.sweep(9.0), forwarder.sweep(11.0), forwarder.sweep(99.0), forwarder.sweep(101.0)) == (0, 1, 0, 1)
    assert len(forwarder) == len(stage.connection_ids) == 0


def test_learned_ids_are_forgotten_with_the_last_path(stage: Stage) -> None:
    forwarder, client = stage.forwarder(), stage.endpoint()
    flow = stage.forward(forwarder, client)
    assert flow is not None
    stage.establish(forwarder, flow, client)
    client.sendto(b"\x40" + OTHER_CID, stage.local.address)
    stage.run(forwarder, stage.server)
    for cid in (SERVER_CID, OTHER_CID):
        assert stage.connection_ids.flow_of_short_header(b"\x40" + cid + b"data") is flow
    path = forwarder.branch(flow, stage.local, stage.endpoint().getsockname(), "source", 0.0)
    assert path is not None
    forwarder.close(flow)
    assert stage.connection_ids.flow(SERVER_CID) is flow
    again = forwarder.branch(flow, stage.local, stage.endpoint().getsockname(), "source", 0.0)
    assert again is not None
    for one in (path, again):
        forwarder.close(one)
    assert len(stage.connection_ids) == 0


def test_paths_per_connection_are_bounded(stage: Stage) -> None:
    forwarder, client = stage.forwarder(paths=3), stage.endpoint()
    flow = stage.forward(forwarder, client)
    assert flow is not None
    made = [forwarder.branch(flow, stage.local, stage.endpoint().getsockname(), "source", 0.0) for _ in range(3)]
    assert [path is None for path in made] == [False, False, True]


def test_unknown_connection_id_does_not_establish_a_flow(stage: Stage) -> None:
    forwarder, client = stage.forwarder(), stage.endpoint()
    flow = stage.forward(forwarder, client)
    assert flow is not None
    forwarder.from_client(flow, b"\x40 unknown connection ID")
    assert not flow.established


def test_new_path_of_a_connection_is_established(stage: Stage) -> None:
    forwarder, client = stage.forwarder(embryonic_seconds=10.0, idle_seconds=100.0), stage.endpoint()
    pair = forwarder.pair(stage.local, client.getsockname(), "source", 0.0, established=True)
    assert pair is not None
    with pair[1]:
        assert (forwarder.sweep(99.0), forwarder.sweep(101.0)) == (0, 1)


def test_closing_the_application_end_closes_the_flow(stage: Stage) -> None:
    forwarder, client = stage.forwarder(), stage.endpoint()
    pair = forwarder.pair(stage.local, client.getsockname(), "source", 0.0)
    assert pair is not None
    flow, end = pair
    forwarder.from_client(flow, b"hello")
    assert end.recv(100) == b"hello"
    end.send(b"answer")
    assert stage.run(forwarder, client) == b"answer"
    end.close()
    forwarder.run(0.0)
    assert len(forwarder) == 0


@pytest.mark.parametrize("connected", [0, 1, 100])
def test_connections_of_one_client_address_are_kept_apart(stage: Stage, connected: int) -> None:
    """A NAT gives an address to its next subscriber while the last one's flow is not idle yet."""
    forwarder, client = stage.forwarder(connected=connected), stage.endpoint()
    first = stage.forward(forwarder, client)
    assert first is not None
    old = stage.establish(forwarder, first, client)
    second = stage.forward(forwarder, client)
    assert second is not None
    new = stage.establish(forwarder, second, client, NEXT_CID)
    for _ in range(2):
        for cid, address in ((SERVER_CID, old), (NEXT_CID, new)):
            forwarder.receive(first, b"\x40" + cid + b"more")
            assert stage.server.recvfrom(100) == (b"\x40" + cid + b"more", address)
    forwarder.close(second)
    assert forwarder.at(stage.local, client.getsockname()) is first
    forwarder.receive(first, b"\x40unknown ID")
    assert stage.server.recvfrom(100)[1] == old
    forwarder.close(first)
    assert (len(forwarder), forwarder.at(stage.local, client.getsockname())) == (0, None)


def test_unknown_destination_of_a_long_header_is_looked_at_anew(stage: Stage) -> None:
    forwarder, client = stage.forwarder(), stage.endpoint()
    flow = stage.forward(forwarder, client)
    assert flow is not None
    flow.first_cid = b"first"
    address = stage.establish(forwarder, flow, client)
    seen: list[bytes] = []

    def look(_flow: ForwardedFlow, datagram: bytes, _mark: int) -> bool:
        seen.append(datagram)
        return b"existing" not in datagram

    forwarder.on_unknown = look
    start = b"\xc0\0\0\0\1"
    for cid in (b"first", SERVER_CID, b"existing"):
        known = start + bytes([len(cid)]) + cid + b"\0known"
        client.sendto(known, stage.local.address)
        stage.run(forwarder, stage.server)
    stage.server.settimeout(10)
    forwarder.receive(flow, b"".join(((start + b"\3new" + b"\0x"), b"\x40" + SERVER_CID + b".")), 11)
    assert stage.server.recvfrom(100) == (b"\x40" + SERVER_CID + b".", address)
    assert seen == [start + b"\x08existing\0known", start + b"\3new\0x"]


def test_flows_of_one_client_address_are_bounded(stage: Stage) -> None:
    forwarder, client = stage.forwarder(), stage.endpoint()
    first = stage.forward(forwarder, client)
    assert first is not None
    stage.establish(forwarder, first, client)
    for _ in range(10):
        assert stage.forward(forwarder, client) is not None
    assert len(forwarder) == 4
    forwarder.receive(first, b"\x40" + SERVER_CID + b"data")
    assert stage.server.recv(100) == b"\x40" + SERVER_CID + b"data"


@pytest.mark.parametrize("connected", [0, 100])
@pytest.mark.parametrize("proxy", [False, True])
def test_marks_pass_both_ways(stage: Stage, connected: int, proxy: bool) -> None:
    """Otherwise the client's ECN validation fails (RFC 9000 section 13.4.2)."""
    forwarder, client = stage.forwarder(connected=connected), stage.endpoint()
    flow = forwarder.forward(stage.local, client.getsockname(), stage.target, "source", 0.0, proxy=proxy)
    assert flow is not None
    for sock in (client, stage.server):
        segmentation.receive_marks(sock)
    for mark in (2, 3, 0, 1):
        segmentation.set_mark(client, mark)
        client.sendto(b"\x40to server", stage.local.address)
        if flow.client_socket is not None:
            assert select.select([flow.client_socket], [], [], PATIENCE)[0]
            forwarder.run(0.0)
        else:
            assert select.select([stage.local.socket], [], [], PATIENCE)[0]
            stage.local.read()
            datagram, seen = stage.received.pop()
            forwarder.receive(flow, datagram, mark=seen)
        data, control, _, address = stage.server.recvmsg(100, 100)
        assert (data.endswith(b"to server"), segmentation.pull_mark(control)) == (True, mark)
        stage.server.sendmsg([b"\x40to client"], segmentation.push_mark(stage.server, mark), 0, address)
        assert select.select([flow.server_socket], [], [], PATIENCE)[0]
        forwarder.run(0.0)
        data, control, _, _ = client.recvmsg(100, 100)
        assert (data, segmentation.pull_mark(control)) == (b"\x40to client", mark)


@pytest.mark.parametrize("proxy", [False, True])
def test_datagram_too_long_for_the_path_is_lost_alone(stage: Stage, proxy: bool) -> None:
    """It is a probe for the path's MTU; the server is not dead."""
    forwarder, client = stage.forwarder(), stage.endpoint()
    flow = forwarder.forward(stage.local, client.getsockname(), stage.target, "source", 0.0, proxy=proxy)
    assert flow is not None
    assert flow.server_socket.getsockopt(socket.IPPROTO_IP, 10) == 3, "IP_MTU_DISCOVER is not IP_PMTUDISC_PROBE"
    unreachable: list[ForwardedFlow] = []
    forwarder.on_unreachable = unreachable.append
    forwarder.from_client(flow, bytes(65500) + bytes(100))  # longer than any UDP datagram
    forwarder.from_client(flow, bytes(3000) + bytes(65536 - 3000), 3000)
    forwarder.from_client(flow, b"\x40short")
    received = [stage.server.recv(65536) for _ in range(23)]
    assert received[-1].endswith(b"\x40short")
    assert (unreachable, len(forwarder)) == ([], 1)


def test_unreachable_server_is_reported_once(stage: Stage) -> None:
    forwarder, client = stage.forwarder(connected=0), stage.endpoint()
    reported: list[ForwardedFlow] = []
    forwarder.on_unreachable = reported.append
    stage.server.close()
    flow = stage.forward(forwarder, client)
    assert flow is not None
    for _ in range(4):  # the first one is sent, the second one gets the ICMP error
        forwarder.from_client(flow, b"\xc0 hello")
    assert reported == [flow]


def test_proxy_header_matches_specification() -> None:
    assert proxy_header(("192.0.2.1", 50000), ("198.51.100.2", 443)) == bytes.fromhex(
        "0d0a0d0a000d0a515549540a2112000cc0000201c6336402c35001bb"
    )
    v6 = proxy_header(("2001:db8::1", 50000, 0, 0), ("2001:db8::2", 443, 0, 0))
    assert v6[12:16] == bytes.fromhex("21220024")
    assert len(v6) == 16 + 36
