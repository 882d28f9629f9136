"""How differences are shown to people: keys, versions, columns, no values unasked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from replication_pipeline.cli.common import printable
from replication_pipeline.domain.comparison import Comparison, Difference, Lag, Seen
from replication_pipeline.domain.version import contour_id_of, microseconds_of

SHOWN: Final = 100


def show_comparison(comparison: Comparison, ids: Mapping[str, int], *, verdict: str = "") -> None:
    """A table's verdict, why it is no better, and the keys that differ."""
    console = Console(highlight=False)
    counted = ", ".join(f"{count:,} in {name}" for name, count in comparison.rows.items())
    found = len(comparison.differences)
    told = verdict or (
        "equal"
        if comparison.equal
        else f"{'' if comparison.complete else 'at least '}{found:,} differ"
        if comparison.settled
        else "not known"
    )
    console.print(Text(printable(f"{comparison.table}: {told} (rows: {counted})")), soft_wrap=True)
    for note in notes_of(comparison):
        console.print(Text(f"  {printable(note)}"), soft_wrap=True)
    if found:
        console.print(listing(comparison, ids))
    if found > SHOWN:
        console.print(f"  … and {found - SHOWN:,} more: --output FILE or --json has them")


def notes_of(comparison: Comparison) -> list[str]:
    """All that is to be said beside the differences."""
    notes = list(comparison.notes)
    if comparison.lags:
        notes.append(
            f"{comparison.unsettled:,} rows differ, and may only be under way; what was waited for "
            "did not arrive (--patience):"
        )
        notes += [f"  {lag_told(lag)}" for lag in comparison.lags]
    if comparison.moving:
        notes.append(
            f"{comparison.moving:,} rows differed and were written again meanwhile: not counted"
        )
    if not comparison.complete:
        notes.append("there are more: --max-differences, or mend these and compare again")
    return notes


def lag_told(lag: Lag) -> str:
    """Which contour has to catch up with which."""
    has = (
        f"it has all until {clock(lag.until)}"
        if lag.until
        else "nothing has been heard of it there"
    )
    wanted = f"what {lag.source} wrote until {clock(lag.wanted)}"
    return f"contour {lag.contour} has not taken in {wanted}; {has}"


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


def side_told(difference: Difference, contour: str, ids: Mapping[str, int]) -> str:
    """What a contour has of a key, in a few words."""
    seen = difference.seen[contour]
    parked = difference.parked.get(contour)
    return seen_told(seen, ids) + (f" (an event is parked: {parked})" if parked else "")


def seen_told(seen: Seen, ids: Mapping[str, int]) -> str:
    """A version is a time and a contour."""
    match seen.state:
        case "row":
            return version_told(seen.version or 0, ids)
        case "deleted":
            return f"deleted {version_told(seen.buried or 0, ids)}"
        case "missing":
            return "missing"


def version_told(version: int, ids: Mapping[str, int]) -> str:
    """When, and by whom."""
    if not version:
        return "from before replication"
    id_ = contour_id_of(version)
    writer = next((name for name, its in ids.items() if its == id_), f"id {id_}")
    return f"{clock(microseconds_of(version) / 1e6)} by {writer}"


def clock(seconds: float) -> str:
    """In UTC; a version may lie beyond what a calendar has."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S.%f}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"


def values_told(difference: Difference) -> str:
    """The columns' values, contour by contour."""
    lines = []
    for contour, columns in difference.values.items():
        shown = ", ".join(f"{n}={'null' if v is None else v}" for n, v in columns.items())
        lines.append(f"{contour}: {shown}")
    return "; ".join(lines)
