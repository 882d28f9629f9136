"""The jobs ``compare`` and ``repair``: the commands of these names with forms, and tables as results.

A run of ``compare`` fails when a table is different, or when that can't be known, so that it is seen;
one of ``repair`` when it was to be applied and something is still to be done.

No postponed annotations here: Dagster compares the type of an op's ``context`` as an object.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg
from pydantic import Field

from replication_pipeline.chosen import (
    chosen_tables,
    contours_to_compare,
    refuse_unknown_winner,
)
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.defs.running import orderly, table, tags_of
from replication_pipeline.domain.difference_words import notes_of, side_told, verdict_told
from replication_pipeline.domain.errors import FatalError
from replication_pipeline.domain.repair import TOLD
from replication_pipeline.inputs import duration
from replication_pipeline.settings import Settings

if TYPE_CHECKING:
    from replication_pipeline.domain.comparison import Comparison

LONG: Final = timedelta(hours=12)
OTHERS: Final = "Only with these contours of compare.contours. Empty: with all of them."
WHERE: Final = "Only rows t for which this SQL holds in some contour: t.id < 100"
PATIENCE: Final = "Longest wait for what is under way. Empty: compare.patience."
MOST: Final = "Find at most so many differences a table."


class CompareConfig(dg.Config):
    """What is compared."""

    tables: list[str] = Field(default=[], description="Only these tables. Empty: all.")
    contours: list[str] = Field(default=[], description=OTHERS)
    where: str | None = Field(default=None, description=WHERE)
    patience: str | None = Field(default=None, description=PATIENCE)
    max_differences: int = Field(default=10_000, ge=1, description=MOST)


class RepairConfig(dg.Config):
    """Which table is made equal, and who is right."""

    table: str = Field(default="", description="The table.")
    contours: list[str] = Field(default=[], description=OTHERS)
    where: str | None = Field(default=None, description=WHERE)
    winner: str | None = Field(
        default=None, description="The rows of this contour win, whatever versions say."
    )
    apply: bool = Field(default=False, description="Do it. Without it nothing is written.")
    patience: str | None = Field(default=None, description=PATIENCE)
    max_differences: int = Field(default=10_000, ge=1, description=MOST)


@dg.op(
    description="Compares tables with those of other contours, row by row, while all of them write. "
    "What is under way is waited for, so a row that is shown has diverged. Changes nothing."
)
def compare_tables(
    context: dg.OpExecutionContext, config: CompareConfig, postgres: PostgresResource
) -> None:
    """As ``replication-pipeline compare``."""
    from replication_pipeline.postgres.compare_contours import contour_ids, open_contours
    from replication_pipeline.postgres.comparison import Options, compare_table

    settings = postgres.settings()
    with orderly(context, settings, LONG) as stop:
        others = contours_to_compare(settings, config.contours, "contour")
        options = Options(
            where=config.where,
            most=config.max_differences,
            patience=duration(config.patience, "patience"),
        )
        found: list[Comparison] = []
        with open_contours(settings, others=others) as connections:
            ids = contour_ids(connections)
            for name in chosen_tables(settings, config.tables):
                try:
                    found.append(compare_table(connections, name, settings, options, stop=stop))
                except FatalError:
                    if stop:
                        return
                    raise
                context.log.info("%s: %s", name, verdict_told(found[-1]))
        contours = [settings.contour.name, *others]
        metadata = {
            "tables": table(
                ("table", "verdict", *(f"rows in {name}" for name in contours), "notes"),
                [
                    (
                        c.table,
                        verdict_told(c),
                        *(c.rows[n] for n in contours),
                        "; ".join(notes_of(c)),
                    )
                    for c in found
                ],
            ),
            "differences": table(
                ("table", "key", *contours, "columns"),
                [
                    (
                        c.table,
                        d.key,
                        *(side_told(d, n, ids) for n in contours),
                        ", ".join(d.columns),
                    )
                    for c in found
                    for d in c.differences
                ],
            ),
        }
        unequal = [f"{c.table}: {verdict_told(c)}" for c in found if not c.equal]
        if unequal:
            raise dg.Failure(
                description="; ".join(unequal)
                + "\n→ the job repair shows who is right, and mends it",
                metadata=metadata,
                allow_retries=False,
            )
        context.add_output_metadata(metadata)


@dg.op(
    description="Makes a table equal again: the contour that has the newest version of a row, or of "
    "its delete, sends that once more, as an event like any other. Without apply it only says what."
)
def repair_rows(
    context: dg.OpExecutionContext, config: RepairConfig, postgres: PostgresResource
) -> None:
    """As ``replication-pipeline repair``."""
    from replication_pipeline.postgres.repair import (
        OUTCOMES,
        Wanted,
        repair_table,
        summary,
    )

    settings = postgres.settings()
    with orderly(context, settings, LONG) as stop:
        others = contours_to_compare(settings, config.contours, "contour")
        contours = [settings.contour.name, *others]
        (name,) = chosen_tables(settings, [config.table])
        refuse_unknown_winner(settings, others, config.winner, "winner")
        wanted = Wanted(
            name,
            others,
            winner=config.winner,
            apply=config.apply,
            most=config.max_differences,
            patience=duration(config.patience, "patience"),
            where=config.where,
        )
        try:
            told = repair_table(settings, wanted, stop=stop)
        except FatalError:
            if stop:
                return
            raise
        done = {each.action.difference.key: each for each in told.done}
        metadata = {
            "verdict": dg.MetadataValue.text(
                f"{verdict_told(told.found)}; afterwards: {verdict_told(told.verdict)}"
                if told.verdict
                else verdict_told(told.found)
            ),
            "summary": table(("",), [(line,) for line in (*notes_of(told.found), *summary(told))]),
            "rows": table(
                ("key", *contours, "columns", "what is done", "outcome"),
                [
                    (
                        a.difference.key,
                        *(side_told(a.difference, n, told.ids) for n in contours),
                        ", ".join(a.difference.columns),
                        f"{a.contour} {TOLD[a.kind]}",
                        OUTCOMES[done[a.difference.key].outcome] if done else "dry run",
                    )
                    for a in told.actions
                ],
            ),
        }
        if (config.apply or not told.found.settled) and not told.equal:
            raise dg.Failure(
                description=f"{name} is not equal yet:\n" + "\n".join(summary(told)),
                metadata=metadata,
                allow_retries=False,
            )
        context.add_output_metadata(metadata)


def compare_jobs(settings: Settings) -> list[dg.JobDefinition]:
    """Both jobs. Their forms are filled with the defaults; ``repair`` begins as a dry run."""
    tags = tags_of(settings, LONG)
    executor = dg.in_process_executor  # the op is on the main thread, where signals go
    first = next(iter(settings.tables), "")

    @dg.job(
        name="compare",
        description="Which rows of a table differ between contours, and in which columns. The run "
        "fails when any does. The check convergence asks the same each night, and counts.",
        executor_def=executor,
        tags=tags,
        config=dg.RunConfig(ops={"compare_tables": CompareConfig()}),
    )
    def compare() -> None:
        compare_tables()

    @dg.job(
        name="repair",
        description="Makes a table equal again in all contours. First a dry run; set apply to do it. "
        "What anybody writes meanwhile stays.",
        executor_def=executor,
        tags=tags,
        config=dg.RunConfig(ops={"repair_rows": RepairConfig(table=first)}),
    )
    def repair() -> None:
        repair_rows()

    return [compare, repair]
