"""Differences in words, for the command line and Dagster's pages: keys, versions, no values unasked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from replication_pipeline.domain.comparison import Comparison, Difference, Lag, Seen
from replication_pipeline.domain.version import contour_id_of, microseconds_of


def verdict_told(comparison: Comparison) -> str:
    """Of a table."""
    if comparison.equal:
        return "equal"
    if not comparison.settled:
        return "not known"
    least = "" if comparison.complete else "at least "
    return f"{least}{len(comparison.differences):,} differ"


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
            f"{comparison.moving:,} rows were written each time they were looked at: not counted"
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
