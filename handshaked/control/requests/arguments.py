"""The arguments of a control command: pulled by name and type; unknown ones are refused."""

from typing import Any, TypeVar

from handshaked.errors import RefusedError
from handshaked.registry.setting_types import Each, Number, SettingType, Text
from handshaked.registry.settings import Setting
from handshaked.wire.json_packets import Message

T = TypeVar("T")
D = TypeVar("D")
_MAX_NAME = 64  # characters that an error repeats


class ArgumentError(RefusedError):
    """The argument ``name`` is missing, invalid or unknown."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


class Arguments:
    """The arguments of one command. Each method removes one of them; ArgumentError if it is invalid."""

    def __init__(self, message: Message) -> None:
        self._values = dict(message)

    def pull(self, name: str, kind: SettingType[T], default: D) -> T | D:
        """Return the argument `name` of type `kind`, or `default` if it is absent or null."""
        value = self._values.pop(name, None)
        if value is None:
            return default
        try:
            return kind.pull(name, value)
        except RefusedError as error:
            raise ArgumentError(name, str(error)) from None

    def setting(self, setting: Setting) -> Any:
        """Return the value of a setting, or its default. An empty string stands for the default string."""
        if isinstance(setting.default, str) and self._values.get(setting.name) == "":
            del self._values[setting.name]
        return self.pull(setting.name, setting.type, setting.default)

    def text(self, name: str) -> str:
        """Return a required string."""
        value = self.optional_text(name)
        if not value:
            raise ArgumentError(name, f"{name} is missing")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a string, or None if it is not given."""
        return self.pull(name, Text(), None)

    def each(self, name: str, kind: Each[T]) -> tuple[T, ...]:
        """Return a list, empty if it is not given."""
        return self.pull(name, kind, ())

    def number(self, name: str, default: int, *, limit: int) -> int:
        """Return an integer from 0 to `limit`."""
        return self.pull(name, Number(limit), default)

    def objects(self, name: str) -> "list[Arguments]":
        """Return a list of objects, empty if it is not given."""
        values = self._values.pop(name, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise ArgumentError(name, f"{name} must be a list of objects")
        return [Arguments(value) for value in values if isinstance(value, dict)]

    def end(self) -> None:
        """Raise ArgumentError if an argument is left, which no method has asked for."""
        if self._values:
            name = next(iter(self._values))
            raise ArgumentError(name, f"unknown key {name[:_MAX_NAME]!r}")
