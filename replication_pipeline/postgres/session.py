"""One long-lived connection that is replaced after any failure, and the worker row beside it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import psycopg

from replication_pipeline.postgres import queries
from replication_pipeline.postgres.connection import connect
from replication_pipeline.settings import Settings


@dataclass(slots=True)
class Session:
    """Connects when first used. ``drop`` after any error; the next use connects again."""

    settings: Settings
    application_name: str
    autocommit: bool = False
    _connection: psycopg.Connection | None = field(default=None)

    def connection(self) -> tuple[psycopg.Connection, bool]:
        """The connection, and whether it is new (so that the caller prepares its session)."""
        if self._connection is not None and self.is_open:
            return self._connection, False
        self._connection = connect(
            self.settings, application_name=self.application_name, autocommit=self.autocommit
        )
        return self._connection, True

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that is not known to be broken."""
        return self._connection is not None and not self._connection.closed

    def drop(self) -> None:
        """Close without ceremony; the server rolls back. Never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def close(self, instance: str) -> None:
        """Say that the worker has ended, if the server can still hear it, and close."""
        connection = self._connection
        if connection is not None and not connection.closed:
            with contextlib.suppress(psycopg.Error):
                connection.rollback()
                connection.execute(
                    queries.load("workers")["worker_stopped"], {"instance": instance}
                )
                connection.commit()
        self.drop()
