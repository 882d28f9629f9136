"""Jobs that an operator starts with a form: ``replay``, ``republish`` and ``doctor``.

They do what the commands of the same names do, by the same code, and show the outcome as tables. They
run beside windows; each says in its description what it needs and what it leaves alone.

No postponed annotations here: Dagster compares the type of an op's ``context`` as an object.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg
from pydantic import Field

from replication_pipeline.chosen import chosen_tables
from replication_pipeline.defs.backfill import sent_again
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.defs.running import LONGEST, Watcher, orderly, table, tags_of
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.inputs import key_object, moment
from replication_pipeline.settings import Settings

if TYPE_CHECKING:
    from replication_pipeline.domain.findings import Finding

LONG: Final = timedelta(days=2)  # reading or sending all that there is
TIME: Final = "how long ago, such as 2h, or a time with its zone, 2026-11-22T10:00Z"


class ReplayConfig(dg.Config):
    """From where on events are read from Kafka once more: ``since`` or ``from_offset``."""

    since: str | None = Field(default=None, description=f"Events published at or after: {TIME}.")
    from_offset: int | None = Field(
        default=None, ge=0, description="From this offset of every partition on; 0: everything."
    )
    tables: list[str] = Field(default=[], description="Only these tables. Empty: all.")


class RepublishConfig(dg.Config):
    """Which published events are sent once more: those for which all that is given holds."""

    since: str | None = Field(default=None, description=f"Published at or after: {TIME}.")
    until: str | None = Field(default=None, description="Published before. Empty: now.")
    tables: list[str] = Field(default=[], description="Only of these tables. Empty: of all.")
    record_keys: list[str] = Field(
        default=[], description="""Only of these keys, as they are on Kafka: {"id":1}"""
    )
    everything: bool = Field(
        default=False, description="All that retention has left, if nothing else is given."
    )
    rate: float | None = Field(default=None, ge=1, description="At most so many events a second.")
    from_id: int = Field(default=0, ge=0, description="Go on where a former run stopped.")
    dry_run: bool = Field(default=False, description="Count, and send nothing.")


@dg.op(
    description="Applies events from Kafka once more, this contour's own among them, up to the "
    "topics' ends as they are now. Versions decide, so nothing newer is overwritten."
)
def replay_events(
    context: dg.OpExecutionContext, config: ReplayConfig, postgres: PostgresResource
) -> None:
    """As ``replication-pipeline replay``."""
    from replication_pipeline import runtime

    settings = postgres.settings()
    with orderly(context, settings, LONG) as stop:
        start = moment(config.since, "since") if config.from_offset is None else config.from_offset
        if start is None or (config.since is not None and config.from_offset is not None):
            raise ConfigurationError(
                "where to begin?", remedy="give either since or from_offset; 0: everything"
            )
        chosen_tables(settings, config.tables)
        run = runtime.plan_replay(settings, start, tables=config.tables or None, stop=stop)
        totals = run.run(Watcher(context))
        rows = [
            ("events to read", run.plan.events),
            ("read", run.done),
            ("applied", totals.applied),
            ("here already, or older", totals.skipped),
            ("parked", totals.parked),
            ("removed by Kafka before they were read", run.plan.gone),
        ]
        context.add_output_metadata(
            {
                "replayed": table(("", "events"), rows),
                "by_table": table(("table", "events"), totals.per_table.most_common()),
                "cut": ", ".join(run.plan.cut) or "none",
                "ended_by": "done" if totals.end == "drained" else totals.end or "",
            }
        )


@dg.op(
    description="Sends published events again, beside running publishers; changes nothing in the "
    "queue. Later events of the same keys follow, so that the last one in Kafka stays the newest."
)
def republish_events(
    context: dg.OpExecutionContext, config: RepublishConfig, postgres: PostgresResource
) -> None:
    """As ``replication-pipeline republish``."""
    from replication_pipeline import runtime
    from replication_pipeline.engine.republish import Selection

    settings = postgres.settings()
    with orderly(context, settings, LONG) as stop:
        if not (
            config.since or config.until or config.tables or config.record_keys or config.everything
        ):
            raise ConfigurationError(
                "which events? Nothing is chosen",
                remedy="give since, until, tables, record_keys or everything",
            )
        selection = Selection(
            since=moment(config.since, "since"),
            until=moment(config.until, "until"),
            tables=tuple(config.tables) or None,
            keys=tuple(key_object(key, "record_keys") for key in config.record_keys) or None,
            from_id=config.from_id,
        )
        if selection.since and selection.until and selection.since >= selection.until:
            raise ConfigurationError("since is not before until", remedy="nothing lies between")
        with runtime.open_republish(
            settings, selection, watcher=Watcher(context), stop=stop, rate=config.rate
        ) as run:
            plan = run.plan()
            totals = run.totals if config.dry_run else run.run()
        context.add_output_metadata(
            {
                "sent_again": table(
                    ("", "events"),
                    [
                        ("chosen", plan.events),
                        ("sent again", totals.sent),
                        ("of them published meanwhile", totals.added),
                        ("removed by retention meanwhile", totals.gone),
                    ],
                ),
                "by_table": sent_again(plan, totals),
                "ended_by": "dry run" if config.dry_run else totals.end,
                "go_on_from_id": totals.position,
            }
        )


@dg.op(
    description="Looks for what is wrong in this contour's database, beside the contours that "
    "`compare.contours` names, and in Kafka. Changes nothing. The run fails when something has to be "
    "mended."
)
def examine_contour(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """As ``replication-pipeline doctor``."""
    from replication_pipeline.doctor import examine
    from replication_pipeline.domain.findings import healthy

    settings = postgres.settings()
    with orderly(context, settings):
        findings = examine(settings)
        metadata = {"findings": _findings(findings)}
        if not healthy(findings):
            wrong = [f for f in findings if f.severity == "mend"]
            raise dg.Failure(
                description=f"{len(wrong)} to mend: "
                + "; ".join(f"{f.message}\n→ {f.remedy}" for f in wrong),
                metadata=metadata,
                allow_retries=False,
            )
        context.add_output_metadata(metadata)


def form_jobs(settings: Settings) -> list[dg.JobDefinition]:
    """The jobs. Their forms are filled with the defaults."""

    def job(
        name: str,
        op: dg.OpDefinition,
        description: str,
        config: dg.Config | None = None,
        longest: timedelta = LONGEST,
    ) -> dg.JobDefinition:
        @dg.job(
            name=name,
            description=description,
            executor_def=dg.in_process_executor,  # the op is on the main thread, where signals go
            tags=tags_of(settings, longest),
            config=dg.RunConfig(ops={op.name: config} if config else {}),
        )
        def form_job() -> None:
            op()

        return form_job

    return [
        job(
            "replay",
            replay_events,
            "Reads topics once more, for a contour restored from a backup: it learns again what "
            "it had published since. A healthy contour is left as it is; appliers may go on.",
            ReplayConfig(since="1d"),
            LONG,
        ),
        job(
            "republish",
            republish_events,
            "Sends published events once more, by time, table and key, for a reader that lost "
            "them. Contours that have them skip them. To send stalled events, materialize their "
            "hours of replication_queue instead.",
            RepublishConfig(since="1h", dry_run=True),
            LONG,
        ),
        job(
            "doctor",
            examine_contour,
            "What is wrong in this contour, with the command that mends it.",
        ),
    ]


def _findings(findings: "Sequence[Finding]") -> dg.MarkdownMetadataValue:
    from replication_pipeline.domain.findings import GROUPS

    signs = {"good": "✓", "notice": "!", "mend": "✗"}
    return table(
        ("", "about", "check", "finding", "mended by"),
        [(signs[f.severity], GROUPS[f.group], f.check, f.message, f.remedy) for f in findings],
    )
