"""The arguments of a control command, pulled out by name and type; what is left over is refused."""

from collections.abc import Callable
from typing import TypeVar

from handshaked.errors import RefusedError
from handshaked.wire.json_packets import Message

_Value = TypeVar("_Value")


class ArgumentError(RefusedError):
    """The argument ``name`` is not what it should be."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


class Arguments:
    """Arguments of one command. Each method takes one of them out; ArgumentError if it is of the wrong type."""

    def __init__(self, message: Message) -> None:
        self._values = dict(message)

    def text(self, name: str) -> str:
        """A required string."""
        value = self.optional_text(name)
        if not value:
            raise ArgumentError(name, f"{name} is missing")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None if it is not given."""
        value = self._values.pop(name, None)
        if value is not None and (not isinstance(value, str) or len(value) > 4096 or not value.isprintable()):
            raise ArgumentError(name, f"{name} is not a printable string of at most 4096 characters")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of strings, empty if it is not given."""
        values = self._values.pop(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ArgumentError(name, f"{name} is not a list of strings")
        return [value for value in values if isinstance(value, str)]

    def each(self, name: str, parse: Callable[[str], _Value], what: str) -> tuple[_Value, ...]:
        """The strings of a list, each made into something by `parse`; `what` they are called if one comes twice."""
        try:
            found = tuple(parse(text) for text in self.texts(name))
        except ArgumentError:
            raise
        except RefusedError as error:
            raise ArgumentError(name, str(error)) from None
        if len(set(found)) != len(found):
            raise ArgumentError(name, f"the same {what} is given twice")
        return found

    def flag(self, name: str) -> bool:
        """A boolean, false if it is not given."""
        value = self._values.pop(name, False)
        if not isinstance(value, bool):
            raise ArgumentError(name, f"{name} is not true or false")
        return value

    def number(self, name: str, default: int, *, limit: int) -> int:
        """A whole number from 0 to `limit`."""
        value = self._values.pop(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise ArgumentError(name, f"{name} is not a whole number from 0 to {limit}")
        return value

    def objects(self, name: str) -> "list[Arguments]":
        """A list of objects, empty if it is not given."""
        values = self._values.pop(name, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise ArgumentError(name, f"{name} is not a list of objects")
        return [Arguments(value) for value in values if isinstance(value, dict)]

    def end(self) -> None:
        """ArgumentError if an argument was given that nobody asked for."""
        if self._values:
            name = next(iter(self._values))
            raise ArgumentError(name, f"unknown key {name!r}")
