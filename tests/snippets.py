"""The fenced blocks of Markdown pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Snippet:
    """One fenced block.

    Attributes:
        page: where it stands.
        line: number of its first line.
        language: of it, "" if none is said.
        text: what is between the fences.
        not_run: why it cannot be run or checked, from a comment above it; "" if it can.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page.stem}-{self.line}-{self.language}"


def snippets(page: Path) -> Iterator[Snippet]:
    """Return the blocks of a page in their order.

    Comments of the form ``<!-- not run: needs a GPU -->`` in the lines right above a block belong to it.
    """
    fence, body, why, start = "", [], "", 0
    language = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        stripped = line.strip()
        if fence and stripped == fence:
            indent = min((len(each) - len(each.lstrip()) for each in body if each.strip()), default=0)
            text = "".join(f"{each[indent:]}\n" for each in body)
            yield Snippet(page, start, language, text, why)
            fence, why = "", ""
        elif fence:
            body.append(line)
        elif opening := re.fullmatch(r"(```+)(\w*)", stripped):
            fence, language = opening.groups()
            body, start = [], number
        elif comment := NOT_RUN.fullmatch(stripped):
            why = comment[1]
        elif stripped and not stripped.startswith("<!--"):
            why = ""
    assert not fence, f"{page}:{start}: the block has no end"


ALL = [snippet for page in PAGES for snippet in snippets(page)]
