"""Tables on a terminal: one for each metric of each run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.report.summary import Row, number, summarize
from bench.results import Result

NARROWEST: Final = 100  # columns; tables are cut off in less
UNSHOWN: Final = frozenset({"contestants", "cumulative", "server"})


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
