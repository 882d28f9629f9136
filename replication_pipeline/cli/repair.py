"""``repair``: a table is made equal again by events of those who are right; at first as a dry run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from replication_pipeline import difference_files
from replication_pipeline.chosen import (
    chosen_tables,
    contours_to_compare,
    refuse_unknown_winner,
)
from replication_pipeline.cli.common import (
    ConfigOption,
    JsonOption,
    configured,
    print_json,
    printable,
)
from replication_pipeline.cli.compare import (
    MostOption,
    PatienceOption,
    WhereOption,
    WithOption,
)
from replication_pipeline.cli.differences import SHOWN
from replication_pipeline.cli.progress import Bar
from replication_pipeline.domain.difference_words import notes_of, side_told
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.domain.repair import TOLD
from replication_pipeline.engine.stopping import StopToken, stop_on_signals
from replication_pipeline.inputs import duration
from replication_pipeline.postgres.comparison import MOST_DIFFERENCES
from replication_pipeline.postgres.repair import Repair, Wanted, repair_table, summary


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("repair")(repair)


def repair(
    table: Annotated[str, typer.Argument(metavar="T", show_default=False)],
    *,
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="What compare --output has written."),
    ] = None,
    with_: WithOption = None,
    where: WhereOption = None,
    winner: Annotated[
        str | None,
        typer.Option(metavar="CONTOUR", help="Its rows win, whatever versions say."),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; else only say what.")] = False,
    patience: PatienceOption = None,
    most: MostOption = MOST_DIFFERENCES,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a table equal again. Without --apply nothing is written.

    The contour with the newest version of a row, or of its delete, sends that once more; where versions
    are equal and contents differ, the contour with the lowest id wins. What is sent is an event like
    any other, and is skipped where somebody has written something newer. Exit status: 0 equal,
    1 something is still to be done.
    """
    settings = configured(config)
    others = contours_to_compare(settings, with_, "--with")
    chosen_tables(settings, [table])
    refuse_unknown_winner(settings, others, winner, "--winner")
    if from_ is not None and where is not None:
        raise ConfigurationError("--where and --from say the same twice", remedy="give one of them")
    if from_ is not None:
        difference_files.refuse_unfit_file(from_, "--from")
    wanted = Wanted(
        table,
        others,
        winner=winner,
        seen=None if from_ is None else difference_files.read(from_, table),
        apply=apply,
        most=most,
        patience=duration(patience, "--patience"),
        where=where,
    )
    bar = Bar()
    with stop_on_signals(StopToken()) as stop, bar.shown(1, visible=not json):
        told = repair_table(settings, wanted, progress=bar.move, stop=stop)
    if json:
        print_json(plain(told))
    else:
        _tell(told, wanted)
    if not told.equal:
        raise typer.Exit(1)


def plain(told: Repair) -> dict[str, Any]:
    """For JSON."""
    done = {each.action.difference.key: each for each in told.done}
    return {
        "table": told.found.table,
        "equal": told.equal,
        "contours": dict(told.ids),
        "applied": told.verdict is not None,
        "found": difference_files.plain(told.found) | {"differences": len(told.found.differences)},
        "actions": [
            {
                "key": each.difference.key,
                "contour": each.contour,
                "action": each.kind,
                "version": str(each.expected),
                "above": None if each.above is None else str(each.above),
                "outcome": done[each.difference.key].outcome if done else None,
                "detail": done[each.difference.key].detail if done else "",
            }
            for each in told.actions
        ],
        "left": [{"key": each.difference.key, "why": each.why} for each in told.left],
        "afterwards": None if told.verdict is None else difference_files.plain(told.verdict),
    }


def _tell(told: Repair, wanted: Wanted) -> None:
    console = Console(highlight=False)
    found = told.found
    typer.echo(f"{found.table}: {len(found.differences):,} rows differ" if found.settled else
               f"{found.table}: not known")  # fmt: skip
    for note in notes_of(found):
        console.print(Text(f"  {printable(note)}"), soft_wrap=True)
    for line in summary(told):
        typer.echo(f"  {line}")
    if not told.done:
        _list(console, told)
        if told.actions:
            command = ["replication-pipeline", "repair", found.table, "--apply"]
            command += ["--winner", wanted.winner] if wanted.winner else []
            typer.echo(f"Nothing was written. To do it: {shlex.join(command)}")
        return
    verdict = told.verdict
    if verdict is None:
        typer.echo("Stopped. Run it again: what is repaired is no longer different.", err=True)
    elif verdict.equal:
        typer.echo("afterwards: the repaired rows are equal everywhere")
    else:
        still = len(verdict.differences)
        typer.echo(
            f"afterwards: {still:,} still differ" if verdict.settled else "afterwards: not known"
        )
        for note in notes_of(verdict):
            console.print(Text(f"  {printable(note)}"), soft_wrap=True)
        for each in verdict.differences[:SHOWN]:
            sides = ", ".join(f"{c}: {side_told(each, c, told.ids)}" for c in each.seen)
            console.print(Text(printable(f"  {each.key}  {sides}")), soft_wrap=True)


def _list(console: Console, told: Repair) -> None:
    if not told.actions:
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("key", *told.ids, "columns", "what is done"):
        table.add_column(name, overflow="fold")
    for action in told.actions[:SHOWN]:
        each = action.difference
        cells = [each.key, *(side_told(each, name, told.ids) for name in told.ids)]
        cells += [", ".join(each.columns), f"{action.contour} {TOLD[action.kind]}"]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    if len(told.actions) > SHOWN:
        console.print(f"  … and {len(told.actions) - SHOWN:,} more: --json has them")
