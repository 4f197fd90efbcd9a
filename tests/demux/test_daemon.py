"""The demultiplexer's process: its own tables, and how it ends."""

from handshaked.demux.daemon import BoundedDict


def test_bounded_dict_drops_its_oldest_entry() -> None:
    latest: BoundedDict[str, int] = BoundedDict(2)
    for key, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        latest[key] = value
    assert list(latest.items()) == [("a", 3), ("c", 4)]
