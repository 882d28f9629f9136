"""What a comparison has found, kept in this contour for its exporter: all that comparing writes.

Kept is a verdict on a whole table in all contours that ``compare.contours`` names; a part of it would
hide what an earlier comparison has found. A role that may only read keeps none.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psycopg

from replication_pipeline.domain.comparison import Comparison
from replication_pipeline.domain.errors import ReplicationError
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating
from replication_pipeline.settings import Settings


def keep(
    connections: Mapping[str, psycopg.Connection[Any]], comparison: Comparison, settings: Settings
) -> None:
    """``comparison`` of a whole table, over ``connections``."""
    me = settings.contour.name
    if not comparison.settled or connections.keys() != {me, *settings.compare.contours}:
        return
    sql, connection = queries.load("metrics"), connections[me]
    # A verdict that took an hour is not lost because it can't be kept.
    with suppress(ReplicationError), translating(f"contour {me}: keeping what was found"):
        row = connection.execute(sql["may_keep_comparison"]).fetchone()
        if row is None or not row[0]:
            return
        with connection.transaction():
            connection.execute("set transaction read write")
            connection.execute(
                sql["keep_comparison"],
                {
                    "table": comparison.table,
                    "contours": sorted(connections),
                    "rows": comparison.most_rows,
                    "differing": len(comparison.differences),
                    "complete": comparison.complete,
                },
            )
