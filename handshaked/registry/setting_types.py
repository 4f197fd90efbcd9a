"""Types of settings: each reads a value from JSON, TOML, D-Bus and the command line, and shows it.

Values in JSON, TOML and D-Bus are plain: booleans, integers, strings, and lists of them. Nothing here does I/O.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from handshaked.errors import RefusedError

MAX_TEXT = 4096

T = TypeVar("T")


class SettingType(ABC, Generic[T]):
    """A type with values of `T`. ``signature`` is the D-Bus type in which a value is given."""

    signature: str
    metavar = ""

    @abstractmethod
    def pull(self, name: str, value: object) -> T:
        """Return the setting that the plain `value` of `name` stands for; RefusedError if it is invalid."""

    @abstractmethod
    def describe(self) -> str:
        """Return a phrase for the reference that says which values are valid."""

    @property
    def shown_signature(self) -> str:
        """The D-Bus type of what ``show`` returns."""
        return self.signature

    def show(self, value: T) -> Any:
        """Return `value` as a plain value, for JSON and D-Bus."""
        return value

    def words(self, shown: Any) -> str:
        """Return what ``show`` returned as text for people; empty if there is nothing to show."""
        return str(shown)

    def command_line(self, default: T) -> dict[str, Any]:
        """Return the arguments of ``argparse.add_argument`` for an option of this type."""
        return {"default": default}

    def given(self, argument: Any) -> Any:
        """Return the plain value of `argument`, the option's value as argparse returns it."""
        return argument


@dataclass(frozen=True)
class Flag(SettingType[bool]):
    """A boolean."""

    signature = "b"

    def pull(self, name: str, value: object) -> bool:
        """Accept a boolean."""
        if not isinstance(value, bool):
            raise RefusedError(f"{name} must be true or false")
        return value

    def describe(self) -> str:
        """Name the two values."""
        return "true or false"

    def words(self, shown: Any) -> str:
        """Answer yes or no."""
        return "yes" if shown else "no"

    def command_line(self, default: bool) -> dict[str, Any]:
        """The option takes no value."""
        return {"action": "store_true"}


@dataclass(frozen=True)
class Number(SettingType[int]):
    """An integer from 0 to ``most``."""

    most: int
    signature = "x"
    metavar = "N"

    def pull(self, name: str, value: object) -> int:
        """Accept an integer in the range."""
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= self.most:
            raise RefusedError(f"{name} must be an integer from 0 to {self.most}")
        return value

    def describe(self) -> str:
        """Name the range."""
        return f"integer from 0 to {self.most}"

    def command_line(self, default: int) -> dict[str, Any]:
        """The option takes a number."""
        return {"type": int, "default": default}


@dataclass(frozen=True)
class Text(SettingType[str]):
    """A string that ``parse`` returns in canonical form; with ``several_words``, the option takes it word by word."""

    parse: Callable[[str], str] = str
    description: str = "string"
    several_words: bool = False
    signature = "s"

    def pull(self, name: str, value: object) -> str:
        """Accept a printable string that ``parse`` accepts."""
        if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
            raise RefusedError(f"{name} must be a printable string of at most {MAX_TEXT} characters")
        return self.parse(value)

    def describe(self) -> str:
        """Return the description."""
        return self.description

    def command_line(self, default: str) -> dict[str, Any]:
        """The option takes one word or several."""
        return {"nargs": "+", "default": [default]} if self.several_words else {"default": default}

    def given(self, argument: Any) -> Any:
        """Join the words."""
        return " ".join(argument) if self.several_words else argument


@dataclass(frozen=True)
class File(Text):
    """A path. The command line opens it as the user who calls."""

    description: str = "file"
    metavar = "F"


@dataclass(frozen=True)
class Choice(SettingType[str]):
    """One of a few words."""

    choices: tuple[str, ...]
    signature = "s"

    def pull(self, name: str, value: object) -> str:
        """Accept one of the words."""
        if value not in self.choices:
            raise RefusedError(f"{name} must be one of {', '.join(self.choices)}, not {value!r}")
        return str(value)

    def describe(self) -> str:
        """Name the words."""
        return ", ".join(f"`{choice}`" for choice in self.choices)

    def command_line(self, default: str) -> dict[str, Any]:
        """The option takes one of the words."""
        return {"choices": self.choices, "default": default}


@dataclass(frozen=True)
class Each(SettingType[tuple[T, ...]]):
    """A list of strings without duplicates, each read by ``parse`` and written by ``write``.

    ``noun`` is what one of them is called. ``most``, if given, limits their number. ``shown_as`` is the D-Bus type of
    one that is shown.
    """

    parse: Callable[[str], T]
    noun: str
    most: int | None = None
    write: Callable[[T], Any] = lambda one: one
    shown_as: str = "s"
    signature = "as"

    def pull(self, name: str, value: object) -> tuple[T, ...]:
        """Accept a list of different strings that ``parse`` accepts."""
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise RefusedError(f"{name} must be a list of strings")
        if self.most is not None and len(value) > self.most:
            raise RefusedError(f"{name} has {len(value)} entries, at most {self.most} are allowed")
        found = tuple(self.parse(one) for one in value)
        if len(set(found)) != len(found):
            raise RefusedError(f"the same {self.noun} is given twice")
        return found

    def describe(self) -> str:
        """Say what it is a list of."""
        return f"list of {self.noun}s" + (f", at most {self.most}" if self.most is not None else "")

    @property
    def shown_signature(self) -> str:
        """An array."""
        return f"a{self.shown_as}"

    def show(self, value: tuple[T, ...]) -> Any:
        """Write them all."""
        return [self.write(one) for one in value]

    def words(self, shown: Any) -> str:
        """Join them."""
        return ", ".join(map(str, shown))

    def command_line(self, default: tuple[T, ...]) -> dict[str, Any]:
        """The option is repeated."""
        return {"action": "append", "default": self.show(default)}
