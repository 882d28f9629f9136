"""How a contour is: one row of the view ``replication.status``."""

from __future__ import annotations

from psycopg import Connection
from psycopg.rows import class_row

from replication_pipeline.domain.health import ContourStatus
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating


def read_status(connection: Connection, contour_name: str) -> ContourStatus:
    """Backlog, lag, workers and counters at this moment.

    Raises ``TransientError`` when the server is away, ``FatalError`` when the SQL is not installed.
    """
    with (
        translating(f"contour {contour_name}: reading the status"),
        connection.cursor(row_factory=class_row(ContourStatus)) as cursor,
    ):
        status = cursor.execute(queries.load("workers")["status"]).fetchone()
    assert status is not None  # the view has exactly one row once a contour is installed
    return status
