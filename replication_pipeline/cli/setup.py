"""``init``, ``setup-table``, ``remove-table``."""

from __future__ import annotations

from typing import Annotated

import typer

from replication_pipeline.cli.common import ConfigOption, configured
from replication_pipeline.cli.snapshot import load
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.engine.snapshot import Wanted
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.postgres import installer
from replication_pipeline.postgres.connection import connect
from replication_pipeline.settings import Settings

Tables = Annotated[
    list[str] | None, typer.Argument(metavar="T...", help="Tables: users, or schema.table.")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("init")(init)
    app.command("setup-table")(setup_table)
    app.command("remove-table")(remove_table)


def init(config: ConfigOption = None) -> None:
    """Install the SQL in this contour's database, or upgrade it in place."""
    settings = configured(config)
    with connect(settings, application_name="replicator_setup", check=False) as connection:
        installer.install(connection, settings)
    typer.echo(f"contour {settings.contour.name} (id {settings.contour.id}): SQL is installed")


def setup_table(
    tables: Tables = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="Then send the rows that are there to all others.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Capture tables from now on, and create their topics. Without names: all configured ones."""
    settings = configured(config)
    chosen = _chosen(settings, tables)
    with connect(settings, application_name="replicator_setup") as connection:
        for table in chosen:
            installer.relation_of(connection, table)  # a new name must not make a topic
        # Topics first: an event of a table without a topic would hold up its publisher.
        topics = ensure_topics(settings, chosen)
        for table in chosen:
            installer.setup_table(connection, settings, table)
            typer.echo(f"{table}: captured in contour {settings.contour.name}")
    for topic, created in topics.items():
        typer.echo(f"topic {topic}: {'created' if created else 'was there'}")
    for table in chosen if snapshot else ():
        if load(settings, Wanted(table)).end != "done":
            raise typer.Exit(1)


def remove_table(
    tables: Annotated[list[str], typer.Argument(metavar="T...", help="Tables to take out.")],
    drop_version_column: Annotated[
        bool,
        typer.Option(
            help="Drop replication_version too; forgets which write of a row was the last."
        ),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Stop capturing tables. Queued events are still published; topics stay."""
    settings = configured(config)
    with connect(settings, application_name="replicator_setup") as connection:
        for table in tables:
            installer.remove_table(
                connection, settings, table, drop_version_column=drop_version_column
            )
            typer.echo(f"{table}: no longer captured in contour {settings.contour.name}")


def _chosen(settings: Settings, tables: list[str] | None) -> list[str]:
    chosen = tables or list(settings.tables)
    if not chosen:
        raise ConfigurationError(
            "no table is named",
            remedy="name tables on the command line, or list them under tables:",
        )
    return chosen
