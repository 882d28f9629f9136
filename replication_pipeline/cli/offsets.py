"""``offsets``: where this contour stands in Kafka's topics, and going on where events are missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from replication_pipeline import runtime
from replication_pipeline.chosen import chosen_tables
from replication_pipeline.cli.common import ConfigOption, JsonOption, configured, print_json
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.domain.positions import SOUND, explain, standing
from replication_pipeline.kafka.topic_logs import TopicLog
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.positions import StoredTopic, accept, read_positions
from replication_pipeline.settings import Settings

TablesArgument = Annotated[list[str] | None, typer.Argument(metavar="T...")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(help="Where this contour stands in Kafka's topics.", no_args_is_help=True)
    group.command("list")(list_offsets)
    group.command("accept")(accept_offsets)
    app.add_typer(group, name="offsets")


def list_offsets(
    tables: TablesArgument = None, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Where each partition is read next, beside what Kafka has.

    Exit status 1 when a position can't be served.
    """
    settings = configured(config)
    topics = _topics(settings, tables)
    logs = runtime.read_logs(settings, topics)
    with connect(settings, application_name="replicator_offsets") as connection:
        stored = read_positions(connection, topics)
    rows = [
        row
        for topic, table in topics.items()
        for row in _rows(table, topic, stored[topic], logs.get(topic))
    ]
    if json:
        print_json(rows)
    else:
        Console(highlight=False).print(_screen(rows))
    if not all(row["standing"] in SOUND for row in rows):
        raise typer.Exit(1)


def accept_offsets(
    tables: Annotated[list[str], typer.Argument(metavar="T...")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Go on with these tables' topics as Kafka has them, although events are missing here.

    For after the missing events have been made good, or sent again. Positions that Kafka can serve
    stay; all others go to the first event that it has. Nothing is applied twice. Appliers may run.
    """
    settings = configured(config)
    topics = _topics(settings, tables)
    logs = runtime.read_logs(settings, topics)
    for topic, table in topics.items():
        if topic not in logs:
            raise ConfigurationError(
                f"Kafka has no topic {topic}", remedy=f"replication-pipeline setup-table {table}"
            )
    moved: dict[str, dict[int, int]] = {}
    with connect(settings, application_name="replicator_offsets") as connection:
        for topic in topics:
            moved[topic] = accept(connection, topic, logs[topic].topic_id, logs[topic].ranges)
    if json:
        print_json({"accepted": moved})
        return
    for name, partitions in moved.items():
        where = ", ".join(f"[{p}] from {offset}" for p, offset in sorted(partitions.items()))
        typer.echo(f"{name}: {f'read on {where}' if where else 'all positions are sound'}")


def _topics(settings: Settings, tables: list[str] | None) -> dict[Topic, str]:
    prefix = settings.kafka.topic_prefix
    return {topic_for(table, prefix=prefix): table for table in chosen_tables(settings, tables)}


def _rows(
    table: str, topic: Topic, stored: StoredTopic, log: TopicLog | None
) -> Iterator[dict[str, Any]]:
    common = {"table": table, "topic": topic}
    if log is None:
        nothing = {"partition": None, "next_offset": None, "log_start": None, "log_end": None}
        yield common | nothing | {"standing": "missing", "meaning": "Kafka has no such topic"}
        return
    same = log.topic_id is None or stored.topic_id in (None, log.topic_id)
    for partition in sorted(log.ranges):
        kept = log.ranges[partition]
        position = stored.next_offsets.get(partition)
        found = standing(position, kept, same_topic=same)
        yield common | {
            "partition": partition,
            "next_offset": position,
            "log_start": kept.start,
            "log_end": kept.end,
            "standing": found,
            "meaning": explain(found, position, kept),
        }


def _screen(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("topic")
    for name in ("partition", "next", "Kafka has", ""):
        table.add_column(name, justify="left" if name == "" else "right")
    for row in rows:
        meaning = row["meaning"]
        table.add_row(
            row["topic"],
            _text(row["partition"]),
            _text(row["next_offset"]),
            "" if row["log_end"] is None else f"{row['log_start']}…{row['log_end']}",
            meaning if row["standing"] in SOUND else f"[bold red]{meaning}[/]",
        )
    return table


def _text(value: int | None) -> str:
    return "" if value is None else str(value)
