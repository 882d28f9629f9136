"""Medians, spread, differences and ratios of one run's results, and the tables that show them.

A contestant is compared with the first one of the run that has the metric. Both are paired round by
round before the median is taken: what slowed a whole round down cancels out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.results import Result

NARROWEST: Final = 100  # columns; tables are cut off in less
UNSHOWN: Final = frozenset({"contestants", "cumulative", "server"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contestant in one metric. The first contestant's own ``added`` and ``ratio`` are ``None``."""

    metric: str
    unit: str
    contestant: str
    runs: int
    median: float
    low: float
    high: float
    added: float | None
    """More than the first contestant."""
    ratio: float | None
    """To the first contestant."""
    step: float | None
    """More than the contestant before."""


def summarize(results: Sequence[Result]) -> list[Row]:
    """Rows by metric and contestant, in the order in which the run names them.

    Raises ``ValueError`` for results of more than one run: their servers may differ.
    """
    if not results:
        return []
    if len({(result.scenario, result.date) for result in results}) > 1:
        raise ValueError("only results of one run can be compared")
    order: list[str] = list(results[0].settings["contestants"])
    rows = []
    for metric in dict.fromkeys(result.metric for result in results):
        of_metric = [result for result in results if result.metric == metric]
        present = {result.contestant for result in of_metric}
        contestants = [name for name in order if name in present]
        by_run = {
            name: {result.run: result.value for result in of_metric if result.contestant == name}
            for name in contestants
        }
        first = by_run[contestants[0]]
        for position, name in enumerate(contestants):
            values = by_run[name]
            before = by_run[contestants[position - 1]] if position else {}
            base = first if position else {}
            rows.append(
                Row(
                    metric=metric,
                    unit=of_metric[0].unit,
                    contestant=name,
                    runs=len(values),
                    median=median(values.values()),
                    low=min(values.values()),
                    high=max(values.values()),
                    added=_median(
                        value - base[run] for run, value in values.items() if run in base
                    ),
                    ratio=_median(
                        value / base[run] for run, value in values.items() if base.get(run)
                    ),
                    step=_median(
                        value - before[run] for run, value in values.items() if run in before
                    ),
                )
            )
    return rows


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None


def show(console: Console, results: Sequence[Result]) -> None:
    """Print a table for each metric of each run."""
    console.width = max(console.width, NARROWEST)

    def run(result: Result) -> tuple[str, str]:
        return (result.scenario, result.date)

    for (scenario, date), lines in groupby(sorted(results, key=run), key=run):
        of_run = list(lines)
        settings = of_run[0].settings
        versions = ", ".join(f"{name} {text}" for name, text in of_run[0].versions.items())
        given = ", ".join(f"{k} {v}" for k, v in settings.items() if k not in UNSHOWN)
        console.rule(f"[bold]{scenario}[/] {date}")
        console.print(f"{versions}; commit {of_run[0].commit}\n{given}", highlight=False)
        for _, rows in groupby(summarize(of_run), key=lambda row: row.metric):
            console.print(_table(list(rows), steps=bool(settings.get("cumulative"))))


def _table(rows: list[Row], *, steps: bool) -> Table:
    title = f"\n{rows[0].metric} ({rows[0].unit}), compared with {rows[0].contestant}"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("contestant", no_wrap=True)
    headings = ["median", "min … max", "added", "ratio", *(["step"] if steps else [])]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [
            number(row.median),
            f"{number(row.low)} … {number(row.high)}",
            number(row.added, sign=True),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            number(row.step, sign=True),
        ]
        table.add_row(row.contestant, *cells[: len(headings)])
    return table


def number(value: float | None, *, sign: bool = False) -> str:
    """Three digits that mean something; thousands are grouped by thin spaces."""
    if value is None:
        return ""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2  # noqa: PLR2004
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    return text.replace(",", "\N{THIN SPACE}")
