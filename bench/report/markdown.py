"""Pieces of Markdown: paragraphs that are wrapped, tables, anchors."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

WIDTH: Final = 118


def paragraph(*sentences: str) -> str:
    """Wrapped, with an empty line behind it."""
    text = " ".join(sentences)
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """With an empty line behind it."""
    lines = [_row(headings), "|" + "---|" * len(headings), *map(_row, rows)]
    return "\n".join(lines) + "\n\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def slug(heading: str) -> str:
    """A heading's anchor."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()))
