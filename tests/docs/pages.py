"""The pages of the documentation, and the blocks of code in them."""

from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

CHECKOUT = Path(__file__).parents[2]
PAGES = [
    *sorted(CHECKOUT.glob("*.md")),
    *sorted(path for path in (CHECKOUT / "docs").rglob("*.md") if "_build" not in path.parts),
    CHECKOUT / "benchmarks/RESULTS.md",
]
NOT_RUN = "not run: "
MAY_FAIL = "exit status 1 is expected: "
FILE = "file: "


@dataclass(frozen=True)
class Block:
    """A block of code. ``note`` is the text of the comment above it, which says how it is tested."""

    language: str
    text: str
    note: str
    line: int

    @property
    def runs(self) -> bool:
        """True if the test runs it: a block of commands without a reason not to."""
        return self.language == "sh" and not self.note.startswith(NOT_RUN)


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code of `page`, in order; an indented block has the language ``indented``."""
    found = []
    note = ""
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            language = token.info.strip() if token.type == "fence" else "indented"
            found.append(Block(language, token.content, note, (token.map or [0])[0] + 1))
        note = token.content.strip().removeprefix("<!--").removesuffix("-->").strip() if _is_comment(token) else ""
    return found


def _is_comment(token: object) -> bool:
    return getattr(token, "type", "") == "html_block" and getattr(token, "content", "").startswith("<!--")
