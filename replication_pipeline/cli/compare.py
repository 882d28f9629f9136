"""``compare``: whether tables are equal in several contours, row by row, while everybody writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from replication_pipeline import difference_files
from replication_pipeline.chosen import chosen_tables, contours_to_compare
from replication_pipeline.cli.common import ConfigOption, JsonOption, configured, print_json
from replication_pipeline.cli.differences import show_comparison
from replication_pipeline.cli.progress import Bar
from replication_pipeline.engine.stopping import StopToken, stop_on_signals
from replication_pipeline.inputs import duration
from replication_pipeline.postgres.compare_contours import contour_ids, open_contours
from replication_pipeline.postgres.comparison import MOST_DIFFERENCES, Options, compare_table

WithOption = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="CONTOUR", help="With this one only; repeatable."),
]
PatienceOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Longest wait for what is under way; default: compare.patience."
    ),
]
MostOption = Annotated[
    int, typer.Option("--max-differences", min=1, help="Find at most so many a table.")
]
WhereOption = Annotated[
    str | None,
    typer.Option(metavar="SQL", help="Rows t for which this holds in some contour: 't.id < 100'."),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("compare")(compare)


def compare(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[T]...", help="Default: all that are configured.")
    ] = None,
    *,
    with_: WithOption = None,
    where: WhereOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write them to FILE.csv, .parquet or .json.")
    ] = None,
    values: Annotated[bool, typer.Option("--values", help="Show values of rows as well.")] = False,
    patience: PatienceOption = None,
    most: MostOption = MOST_DIFFERENCES,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare tables with those of the contours that compare.contours names. Changes nothing.

    What is under way is waited for and read again, so a row that is shown has really diverged; the
    heartbeats of all contours must run for that. Exit status: 0 equal, 1 different or not known.
    """
    settings = configured(config)
    others = contours_to_compare(settings, with_, "--with")
    tables = chosen_tables(settings, tables)
    if output is not None:
        difference_files.refuse_unfit_file(output, "--output")
    options = Options(
        where=where, most=most, patience=duration(patience, "--patience"), values=values
    )
    found = []
    with (
        open_contours(settings, others=others) as connections,
        stop_on_signals(StopToken()) as stop,
    ):
        ids = contour_ids(connections)
        for table in tables:
            bar = Bar()
            with bar.shown(1, visible=not json):
                comparison = compare_table(
                    connections, table, settings, options, progress=bar.move, stop=stop
                )
            found.append(comparison)
            if not json:
                show_comparison(comparison, ids)
    equal = all(each.equal for each in found)
    if output is not None:
        difference_files.write(output, found)
    if json:
        print_json(
            {"equal": equal, "contours": ids, "tables": [difference_files.plain(f) for f in found]}
        )
    if not equal:
        raise typer.Exit(1)
