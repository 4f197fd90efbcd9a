"""``handshaked.toml`` with the files that it names: read by a process that may read them, used by workers that may not.

The parent reads, checks and distributes them as one block of bytes; so all workers use the same, and a file that cannot
be used leaves the current ones in use.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from handshaked.configuration.handshaked_toml import Configuration, parse_configuration, read_configuration
from handshaked.errors import RefusedError
from handshaked.handshakes.peer_policy import load_side, read_side_file
from handshaked.model import Role
from handshaked.registry.notices import Notice

log = logging.getLogger(__name__)

CHECK_SECONDS = 60.0
"""Interval at which the configuration and its files are checked for changes."""


@dataclass(frozen=True, slots=True)
class SideFiles:
    """The ``text`` of the configuration file ``name``, and the contents of the files that it names, by path."""

    name: str
    text: str
    contents: Mapping[str, bytes] = field(repr=False)
    notices: tuple[Notice, ...] = field(default=(), compare=False)
    """Warnings about the files for administrators; not passed on to workers."""

    @classmethod
    def read(cls, configuration_path: Path, *, required: bool) -> Self:
        """Read the configuration at `configuration_path` and its files; RefusedError if one of them cannot be used."""
        text = read_configuration(configuration_path, required=required)
        configuration = parse_configuration(text, str(configuration_path))
        contents: dict[str, bytes] = {}

        def record(path: Path, limit: int, *, secret: bool) -> bytes:
            contents[str(path)] = content = read_side_file(path, limit, secret=secret)
            return content

        sides = {Role.CLIENT: configuration.client, Role.SERVER: configuration.server}
        notices = [
            replace(notice, text=f"[{role.name.lower()}] {notice.text}")
            for role, defaults in sides.items()
            for notice in load_side(defaults, role, record).notices
        ]
        return cls(str(configuration_path), text, contents, tuple(notices))

    @property
    def configuration(self) -> Configuration:
        """The settings."""
        return parse_configuration(self.text, self.name)

    def content(self, path: Path, limit: int, *, secret: bool) -> bytes:
        """Return the content of a file; its size and mode were checked when it was read."""
        return self.contents[str(path)]

    def push(self) -> bytes:
        """Encode everything."""
        contents = {name: base64.b64encode(content).decode() for name, content in self.contents.items()}
        return json.dumps({"name": self.name, "text": self.text, "contents": contents}).encode()

    @classmethod
    def pull(cls, data: bytes) -> Self:
        """Decode what ``push`` has encoded."""
        decoded = json.loads(data)
        contents = {name: base64.b64decode(content) for name, content in decoded["contents"].items()}
        return cls(decoded["name"], decoded["text"], contents)


class SideFilesWatch:
    """Keeps the files that `read` returns up to date, beginning with `current`, and calls `publish` with new ones."""

    def __init__(self, current: SideFiles, read: Callable[[], SideFiles], publish: Callable[[SideFiles], None]) -> None:
        self._current = current
        self._read = read
        self._publish = publish
        self._problem: str | None = None

    def reload(self) -> tuple[Notice, ...]:
        """Read everything again and return notices.

        RefusedError if something cannot be used: the current files stay in use.
        """
        files = self._read()
        self._use(files)
        return files.notices

    async def run(self) -> None:
        """Look for changes at intervals."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.check()

    async def check(self) -> None:
        """Look for changes once; a problem is logged once."""
        try:
            self._use(await asyncio.to_thread(self._read))
        except RefusedError as error:
            if self._problem != str(error):
                log.error("cannot reload the configuration, the current one stays in use: %s", error)
            self._problem = str(error)

    def _use(self, files: SideFiles) -> None:
        self._problem = None
        if files != self._current:
            self._current = files
            self._publish(files)
