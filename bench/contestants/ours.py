"""This project's capture, installed as a user installs it."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import Connection

from replication_pipeline.postgres import installer
from replication_pipeline.settings import Settings


class Ours:
    name = "ours"

    def missing(self, connection: Connection) -> str | None:  # noqa: ARG002  runs everywhere
        return None

    def install(self, connection: Connection) -> None:
        install_contour(connection, contour_settings(connection.info.dsn))


def install_contour(connection: Connection, settings: Settings) -> None:
    installer.install(connection, settings)
    for table in settings.tables:
        installer.setup_table(connection, settings, table)


def contour_settings(
    dsn: str, *, name: str = "bench", number: int = 1, tables: Iterable[str] = ("users",)
) -> Settings:
    """The configuration of a contour, most often the only one; Kafka is never asked."""
    return Settings(
        contour={"name": name, "id": number},
        postgres={"dsn": dsn, "statement_timeout": "10min"},
        kafka={"bootstrap_servers": "unused:1"},
        tables=[*tables],
    )
