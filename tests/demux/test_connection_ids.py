"""The table of connection IDs: routes of listeners, and IDs learned from forwarded flows."""

from handshaked.demux.connection_ids import ConnectionIds


def test_listeners_are_found_by_route_and_flows_by_learned_id() -> None:
    table: ConnectionIds[str, str] = ConnectionIds()
    route = table.assign_route("first", 1000)
    assert table.assign_route("second", 1000, route) != route
    assert table.listener(route + b"any id") == "first"
    assert table.learn(b"an id of a server", "flow")
    assert not table.learn(b"an id of a server", "another")
    assert table.flow_of_short_header(b"\x40an id of a server and data") == "flow"
    assert table.flow_of_short_header(b"\x40an id of another one and data") is None
    table.forget(b"an id of a server")
    table.release_route(route)
    assert table.flow(b"an id of a server") is None
    assert table.listener(route) is None
    assert table.assign_route("third", 1000, route) == route


def test_another_user_cannot_take_over_a_route_after_a_restart() -> None:
    """The clients of the first user would otherwise reach the second one when their addresses change."""
    route = ConnectionIds[str, str]().assign_route("of one user", 1000)
    successor = ConnectionIds[str, str]()
    assert successor.assign_route("of another", 1001, route) != route
    assert successor.assign_route("of one user", 1000, route) == route


def test_short_ids_are_not_learned() -> None:
    table: ConnectionIds[str, str] = ConnectionIds()
    assert not table.learn(b"abc", "flow")
    assert len(table) == 0
