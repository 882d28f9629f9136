"""This project's capture, installed as a user installs it."""

from __future__ import annotations

from psycopg import Connection

from replication_pipeline.postgres import installer
from replication_pipeline.settings import Settings


class Ours:
    name = "ours"

    def missing(self, connection: Connection) -> str | None:  # noqa: ARG002  runs everywhere
        return None

    def install(self, connection: Connection) -> None:
        settings = contour_settings(connection.info.dsn)
        installer.install(connection, settings)
        installer.setup_table(connection, settings, "users")


def contour_settings(dsn: str) -> Settings:
    """The configuration of the one contour that benchmarks know; Kafka is never asked."""
    return Settings(
        contour={"name": "bench", "id": 1},
        postgres={"dsn": dsn, "statement_timeout": "10min"},
        kafka={"bootstrap_servers": "unused:1"},
        tables=["users"],
    )
