"""A pytest plugin that adds a row to the table of settings, as the only change that a new setting needs.

Load it with ``-p``, before anything else imports the table.
"""

import sys
from dataclasses import dataclass, field

from handshaked.registry import settings
from handshaked.registry.setting_types import Choice
from handshaked.registry.settings import Policy, Setting

assert "handshaked.registry.registration" not in sys.modules, "too late: the table has been read already"

ROW = Setting("", Choice(("red", "blue")), "red", "what a throw-away setting is for (default: red)", read_by="demux")


@dataclass(frozen=True, slots=True)
class WiderPolicy(Policy):
    """A policy with one more field."""

    colour_of_shed: str = field(default="red", metadata={Setting: ROW})


setattr(settings, "Policy", WiderPolicy)  # noqa: B010 - a type cannot be assigned to
settings.POLICY = settings.policy_settings(WiderPolicy)
settings.SETTINGS = (*settings.SCOPE, *settings.POLICY, *settings.TRUST)
