"""The job ``snapshot``: a table goes into other contours, by the code of the command ``snapshot``.

No postponed annotations here: Dagster compares the type of an op's ``context`` as an object.
"""

import time
from datetime import datetime, timedelta
from typing import Final

import dagster as dg
from pydantic import Field

from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.defs.running import WARN_EVERY, Watcher, orderly, table, tags_of
from replication_pipeline.engine.snapshot import Progress, Run
from replication_pipeline.settings import Settings

LONG: Final = timedelta(days=7)  # a large table at a low rate
PAST_RUNS: Final = 10


class SnapshotConfig(dg.Config):
    """Which table, and where to. The same again goes on with a run that was stopped."""

    table: str = Field(description="The table, as it is listed under tables: of the configuration.")
    to: str | None = Field(
        default=None, description="The contour that is to apply it. Empty: all others."
    )
    where: str | None = Field(
        default=None, description="SQL over the table's columns: only these rows. Empty: all."
    )
    rate: float | None = Field(default=None, ge=1, description="At most so many rows a second.")
    parallel: int = Field(default=2, ge=1, le=16, description="Connections that read the table.")
    restart: bool = Field(
        default=False, description="Give up an unfinished snapshot of the table, and begin anew."
    )


@dg.op(
    description="Puts the rows of a table that are there now into the queue, each with its own "
    "version, and the table's deletes. Publishers send them like changes; nothing newer is "
    "overwritten anywhere. Applications may write meanwhile, here and elsewhere."
)
def load_table(
    context: dg.OpExecutionContext, config: SnapshotConfig, postgres: PostgresResource
) -> None:
    """As ``replication-pipeline snapshot``."""
    from replication_pipeline import runtime
    from replication_pipeline.engine.snapshot import Wanted
    from replication_pipeline.postgres.snapshot_runs import past_runs

    settings = postgres.settings()
    with orderly(context, settings, LONG) as stop:
        run, work = runtime.prepare_snapshot(
            settings,
            Wanted(config.table, config.to or None, config.where or None),
            watcher=_Telling(context),
            stop=stop,
            restart=config.restart,
            workers=config.parallel,
            rate=config.rate,
        )
        if run.resumed:
            context.log.info("goes on with snapshot %s, begun %s UTC", run.id, _time(run.started))
        totals = work.run()
        context.add_output_metadata(
            {
                "queued": table(
                    ("", "events"),
                    [
                        ("rows", totals.progress.rows),
                        ("deletes", totals.progress.deletes),
                        ("of them by this run", totals.queued),
                    ],
                ),
                "ended_by": totals.end,
                "past_snapshots": table(
                    ("id", "table", "to", "rows", "deletes", "begun", "ended"),
                    [_line(each) for each in past_runs(settings, PAST_RUNS)],
                ),
            }
        )
        if totals.end == "given up":
            raise dg.Failure(
                description="another call has begun the snapshot anew, or the table was set up anew",
                allow_retries=False,
            )


class _Telling(Watcher):
    """Says once a minute how far it is, and what it waits for."""

    def __init__(self, context: dg.OpExecutionContext) -> None:
        super().__init__(context)
        self._told = time.monotonic()

    def progress(self, progress: Progress, waits: str) -> None:  # type: ignore[override]
        """One line, now and then."""
        if time.monotonic() - self._told >= WARN_EVERY:
            self._told = time.monotonic()
            total = max(progress.estimate, progress.rows)
            waits = f"; waits: {waits}" if waits else ""
            self._context.log.info("%s rows of about %s%s", progress.rows, total, waits)


def snapshot_job(settings: Settings) -> dg.JobDefinition:
    """The job. Its form names the first table."""
    first = next(iter(settings.tables), "")

    @dg.job(
        name="snapshot",
        description="Loads a table into the other contours, or into one, while everybody writes: rows "
        "from before the table was set up, for a new contour, and after events were lost. Versions "
        "decide, so it may be repeated.",
        executor_def=dg.in_process_executor,  # the op is on the main thread, where signals go
        tags=tags_of(settings, LONG),
        config=dg.RunConfig(ops={load_table.name: SnapshotConfig(table=first)}),
    )
    def snapshot() -> None:
        load_table()

    return snapshot


def _line(run: Run) -> tuple[object, ...]:
    return (
        run.id,
        run.table,
        run.to or "all others",
        run.rows,
        run.deletes,
        _time(run.started),
        _time(run.finished) if run.finished else "given up" if run.given_up else "not finished",
    )


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
