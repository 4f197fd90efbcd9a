"""A value for every setting of a registration that is not its default."""

from pathlib import Path
from typing import Any

from handshaked.registry.setting_types import Choice, Flag, Number
from handshaked.registry.settings import TRUST, Setting


def sample(setting: Setting, directory: Path) -> Any:
    """Return a value of `setting` that is not its default."""
    match setting.type:
        case _ if setting in TRUST:
            return str(directory / setting.name)
        case Flag():
            return not setting.default
        case Number(most):
            return most if setting.default != most else 0
        case Choice(choices):
            return next(choice for choice in choices if choice != setting.default)
    return setting.example
