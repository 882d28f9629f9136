"""The job ``trace``: one row's story, as the command tells it, on a run's page.

No postponed annotations here: Dagster compares the type of an op's ``context`` as an object.
"""

import dagster as dg
from pydantic import Field

from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.defs.running import orderly, table, tags_of
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.settings import Settings


class TraceConfig(dg.Config):
    """Which row."""

    table: str = Field(description="As in the configuration.")
    record_key: str = Field(description="""Its primary key: 42, or as on Kafka: {"id":42}.""")
    kafka_seconds: float = Field(
        default=10.0, ge=0, description="Read Kafka for so long at most; 0: not."
    )


@dg.op(
    description="Tells one row's story: its events, where they are in Kafka, what each contour made of "
    "them and why. Changes nothing, and shows no values of the row. The run fails when nobody has ever "
    "heard of it."
)
def trace_row(
    context: dg.OpExecutionContext, config: TraceConfig, postgres: PostgresResource
) -> None:
    """As ``replication-pipeline trace``."""
    from replication_pipeline.domain.storytelling import standing
    from replication_pipeline.tracing import trace

    settings = postgres.settings()
    with orderly(context, settings):
        if not config.record_key:
            raise ConfigurationError("which row?", remedy="give its key as record_key")
        story = trace(settings, config.table, config.record_key, seconds=config.kafka_seconds)
        numbers = {event.event_id: f"#{n}" for n, event in enumerate(story.events, start=1)}
        contours = [trail.contour for trail in story.trails]
        metadata = {
            "now": table(
                ("contour", "row"), [(t.contour, standing(t, story.names)) for t in story.trails]
            ),
            "what_happened": table(
                ("at (UTC)", "where", "event", "what"),
                [
                    (
                        f"{moment.at:%Y-%m-%d %H:%M:%S.%f}"[:-3],
                        moment.where,
                        numbers.get(moment.event_id or "", ""),
                        moment.what,
                    )
                    for moment in story.timeline
                ],
            ),
            "what_became_of_each_event": table(
                ("event", "id", "by", "operation", *(f"in {name}" for name in contours)),
                [
                    (
                        numbers[event.event_id],
                        event.event_id,
                        event.contour,
                        event.operation,
                        *(story.decisions[event.event_id].get(name, "") for name in contours),
                    )
                    for event in story.events
                ],
            ),
        }
        if story.unreached:
            metadata["not_asked"] = table(("who", "why"), list(story.unreached.items()))
        if not story.seen:
            raise dg.Failure(
                description=f"{story.table} {story.key} was never seen: no row, no delete and no event "
                "of it is left anywhere",
                metadata=metadata,
                allow_retries=False,
            )
        context.add_output_metadata(metadata)


def trace_job(settings: Settings) -> dg.JobDefinition:
    """Its form begins with the first table."""

    @dg.job(
        name="trace",
        description="One row's story: why is it as it is, here and elsewhere?",
        executor_def=dg.in_process_executor,
        tags=tags_of(settings),
        config=dg.RunConfig(
            ops={trace_row.name: TraceConfig(table=next(iter(settings.tables), ""), record_key="")}
        ),
    )
    def trace() -> None:
        trace_row()

    return trace
