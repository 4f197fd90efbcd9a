"""The pictures of the TLS states show what the transition tables say."""

import re
from xml.etree import ElementTree

import pytest

from handshaked.cli.state_diagram import files
from handshaked.tls.codepoints import HandshakeType
from handshaked.tls.state import CLIENT_QUIC, CLIENT_TCP, PROCEED, SERVER_QUIC, SERVER_TCP, SIGNED, Transitions

TABLES = {"server": (SERVER_QUIC, SERVER_TCP), "client": (CLIENT_QUIC, CLIENT_TCP)}
SVG = "{http://www.w3.org/2000/svg}"


def messages(table: Transitions) -> set[str]:
    """Return the messages that lead on in `table`, as RFC 8446 writes them."""
    types = {message for transitions in table.values() for message in transitions} - {PROCEED, SIGNED}
    return {HandshakeType(message).name.title().replace("_", "") for message in types}


def parsed(role: str) -> ElementTree.Element:
    return ElementTree.fromstring(files()[f"tls-states-{role}.svg"])  # noqa: S314 - our own output


@pytest.mark.parametrize("role", TABLES)
def test_picture_shows_every_state_and_message(role: str) -> None:
    quic, tcp = TABLES[role]
    picture = parsed(role)
    texts = {word for text in picture.iter(f"{SVG}text") for word in str(text.text).split(" or ")}
    assert {state.name for state in quic} - {"FAILED"} <= texts
    assert messages(tcp) <= texts


@pytest.mark.parametrize("role", TABLES)
def test_picture_has_an_arrow_for_every_transition(role: str) -> None:
    quic, tcp = TABLES[role]
    picture = parsed(role)
    arrows = [path for path in picture.iter(f"{SVG}path") if path.get("marker-end")]
    dashed = [path for path in arrows if path.get("stroke-dasharray")]
    pairs = {(source, target) for source, found in tcp.items() for targets in found.values() for target in targets}
    only_tcp = {
        (source, target)
        for source, found in tcp.items()
        for message, targets in found.items()
        if message not in quic.get(source, {})
        for target in targets
    }
    assert len(dashed) == len(only_tcp)
    assert len(arrows) >= len(pairs)


@pytest.mark.parametrize("role", TABLES)
def test_page_shows_the_picture(role: str) -> None:
    assert re.search(rf"!\[[^]]+\]\(tls-states-{role}\.svg\)", files()["tls-states.md"])
