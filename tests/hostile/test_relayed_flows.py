"""Applications that abuse their end of a relayed flow."""

import asyncio
import os
from contextlib import ExitStack

import pytest

from handshaked.wire.attached import push_descriptors
from tests.demux.stage import Stage
from tests.patience import PATIENCE
from tests.plugins.needs import need


@pytest.mark.parametrize("refused", [True, False], ids=["Linux 6.16", "older Linux"])
def test_application_cannot_attach_descriptors(monkeypatch: pytest.MonkeyPatch, refused: bool) -> None:
    """Nobody would close them, or the event loop would, for as long as a lingering socket takes."""
    if refused:
        need("SO_PASSRIGHTS (Linux 6.16)")
    else:
        monkeypatch.setattr("handshaked.demux.forwarder.refuse_descriptors", lambda _: False)

    async def scenario(stage: Stage) -> None:
        forwarder, client = stage.forwarder(), stage.endpoint()
        opened = forwarder.pair(stage.local, client.getsockname(), "source", 0.0)
        assert opened is not None
        mine, theirs = os.pipe()
        os.set_blocking(mine, False)
        rights = push_descriptors([theirs])
        with opened[1] as end:
            if refused:
                with pytest.raises(PermissionError):
                    end.sendmsg([b"x"], rights)
                os.close(theirs)
                os.close(mine)
                return
            end.sendmsg([b"x"], rights)
            os.close(theirs)
            forwarder.run(0.0)
            assert len(forwarder) == 0
            closed = asyncio.Event()
            asyncio.get_running_loop().add_reader(mine, closed.set)
            await asyncio.wait_for(closed.wait(), PATIENCE)
            assert os.read(mine, 1) == b""
            asyncio.get_running_loop().remove_reader(mine)
            os.close(mine)

    with ExitStack() as stack:
        asyncio.run(scenario(Stage(stack)))
