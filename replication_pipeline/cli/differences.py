"""How differences are shown to people: keys, versions, columns, no values unasked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from replication_pipeline.cli.common import printable
from replication_pipeline.domain.comparison import Comparison
from replication_pipeline.domain.difference_words import (
    notes_of,
    side_told,
    values_told,
    verdict_told,
)

SHOWN: Final = 100


def show_comparison(comparison: Comparison, ids: Mapping[str, int]) -> None:
    """A table's verdict, why it is no better, and the keys that differ."""
    console = Console(highlight=False)
    counted = ", ".join(f"{count:,} in {name}" for name, count in comparison.rows.items())
    found = len(comparison.differences)
    told = verdict_told(comparison)
    console.print(Text(printable(f"{comparison.table}: {told} (rows: {counted})")), soft_wrap=True)
    for note in notes_of(comparison):
        console.print(Text(f"  {printable(note)}"), soft_wrap=True)
    if found:
        console.print(listing(comparison, ids))
    if found > SHOWN:
        console.print(f"  … and {found - SHOWN:,} more: --output FILE or --json has them")


def listing(comparison: Comparison, ids: Mapping[str, int]) -> Table:
    """A line a key, a column a contour."""
    contours = list(comparison.rows)
    values = any(each.values for each in comparison.differences)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("key", *contours, "columns", *(["values"] if values else [])):
        table.add_column(name, overflow="fold")
    for each in comparison.differences[:SHOWN]:
        cells = [each.key, *(side_told(each, name, ids) for name in contours)]
        cells.append(", ".join(each.columns))
        if values:
            cells.append(values_told(each))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
