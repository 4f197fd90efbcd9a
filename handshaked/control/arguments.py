"""The arguments of a control command, pulled out by name and type; what is left over is refused."""

from handshaked.control.channel import Message
from handshaked.errors import RefusedError


class Arguments:
    """Arguments of one command."""

    def __init__(self, message: Message) -> None:
        self._values = dict(message)

    def text(self, name: str) -> str:
        """A required string."""
        value = self.optional_text(name)
        if not value:
            raise RefusedError(f"{name} is missing")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None if it is not given."""
        value = self._values.pop(name, None)
        if value is not None and (not isinstance(value, str) or len(value) > 4096 or not value.isprintable()):
            raise RefusedError(f"{name} is not a printable string of at most 4096 characters")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of strings, empty if it is not given."""
        values = self._values.pop(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise RefusedError(f"{name} is not a list of strings")
        return [value for value in values if isinstance(value, str)]

    def flag(self, name: str) -> bool:
        """A boolean, false if it is not given."""
        value = self._values.pop(name, False)
        if not isinstance(value, bool):
            raise RefusedError(f"{name} is not true or false")
        return value

    def number(self, name: str) -> int | None:
        """A number that is not negative, or None if it is not given."""
        value = self._values.pop(name, None)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise RefusedError(f"{name} is not a number, or negative")
        return value

    def objects(self, name: str) -> "list[Arguments]":
        """A list of objects, empty if it is not given."""
        values = self._values.pop(name, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise RefusedError(f"{name} is not a list of objects")
        return [Arguments(value) for value in values if isinstance(value, dict)]

    def end(self) -> None:
        """RefusedError if an argument was given that nobody asked for."""
        if self._values:
            raise RefusedError(f"unknown argument {next(iter(self._values))!r}")
