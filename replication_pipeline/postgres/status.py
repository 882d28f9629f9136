"""How a contour is: one row of the view ``replication.status``; and what it knows of the others."""

from __future__ import annotations

from psycopg import Connection
from psycopg.rows import class_row

from replication_pipeline.domain.contours import Contour
from replication_pipeline.domain.health import ContourStatus
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.heartbeats import read_registry


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


def read_contours(connection: Connection, contour_name: str) -> list[Contour]:
    """All contours whose heartbeats were heard here, by name; not those that are forgotten."""
    with translating(f"contour {contour_name}: reading the contours"):
        registry = read_registry(connection)
    return [c for _, c in sorted(registry.contours.items()) if c.state != "forgotten"]
