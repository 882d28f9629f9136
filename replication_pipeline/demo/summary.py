"""The last words of a timed demo: figures since its start, and whether the contours are equal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from rich.console import Console
from rich.table import Table

from replication_pipeline.demo import verify
from replication_pipeline.demo.live import Eye, Look
from replication_pipeline.embedded import EmbeddedKafka

PATIENCE: Final = timedelta(seconds=60)


def sum_up(
    console: Console,
    eyes: Sequence[Eye],
    start: Mapping[str, Look],
    *,
    kafka: EmbeddedKafka,
    began: datetime,
    stopped: Callable[[], bool],
) -> bool | None:
    """Print the verdict and return it: whether the contours are equal; ``None`` if interrupted."""
    console.print("\nThe workload has ended; waiting until everything has arrived …")
    draining = time.monotonic()
    under_way = verify.wait_until_drained(eyes, kafka, patience=PATIENCE, stopped=stopped)
    took = time.monotonic() - draining
    if stopped():
        return None
    verdicts = verify.compare([eye.contour for eye in eyes])
    equal = under_way is None and all(verdict.equal for verdict in verdicts)
    console.print(_figures(eyes, start, began))
    for verdict in verdicts:
        words = "equal" if verdict.equal else f"DIFFERENT, first at {verdict.differing}"
        rows = " and ".join(f"{count:,}" for count in dict.fromkeys(verdict.rows))
        console.print(f"  {verdict.table:<12} {rows:>9} rows  {words}", soft_wrap=True)
    if under_way is not None:
        console.print(f"  still under way after {took:.0f} s: {under_way}", soft_wrap=True)
    console.print(f"Contours equal: {'yes' if equal else 'NO'} ({took:.1f} s to drain)\n")
    return equal


def _figures(eyes: Sequence[Eye], start: Mapping[str, Look], began: datetime) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), title_justify="left")
    table.add_column("")
    columns: list[list[str]] = []
    for eye in eyes:
        table.add_column(f"contour {eye.contour.name}", justify="right")
        first, last = start.get(eye.contour.name), eye.look()
        if first is None or last is None:
            columns.append(["?"] * 7)
            continue
        then, now = first.status, last.status
        figures = (
            # What waited when the count began is published within it, too.
            last.captured - first.captured + then.unpublished,
            now.processed_total - then.processed_total,
            now.applied_total - then.applied_total,
            now.skipped_total - then.skipped_total,
            now.conflicts_total - then.conflicts_total,
            now.parked_publish + now.parked_apply,
            verify.windows_since(eye.contour, began),
        )
        columns.append([f"{figure:,}" for figure in figures])
    titles = (
        *("events captured", "events published", "events applied", "older ones skipped"),
        *("conflicts decided", "parked", "windows run"),
    )
    for title, *values in zip(titles, *columns, strict=True):
        table.add_row(f"  {title}", *values)
    return table
