"""A value for every setting of a registration that is not its default."""

from pathlib import Path
from typing import Any

from handshaked.registry.setting_types import Choice, Flag, Number
from handshaked.registry.settings import TRUST, Setting

SAMPLES: dict[str, Any] = {
    "server_names": ["a.example.com", "b.example.com"],
    "alpns": ["h3", "smb"],
    "allow_users": ["12345"],
    "allow_groups": ["23456"],
    "cipher_suites": ["AES_256_GCM_SHA384"],
    "groups": ["X25519"],
    "peers": ["allow san=dns:*.example.com"],
    "deliver": "relay",
}
"""A value for each setting for which none can be made from its type."""


def sample(setting: Setting, directory: Path) -> Any:
    """Return a value of `setting` that is not its default."""
    match setting.type:
        case _ if setting in TRUST:
            return str(directory / setting.name)
        case Flag():
            return True
        case Number(most):
            return most
        case Choice(choices):
            return choices[-1]
    return SAMPLES[setting.name]
