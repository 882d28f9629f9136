"""One look at a contour, for its checks: some ten small statements, which change nothing."""

from __future__ import annotations

from typing import Any, Final

from psycopg import Connection

from replication_pipeline.domain.names import topic_for
from replication_pipeline.domain.watch import ApplyLag, Outcomes, Pair, Parked, QueueHealth, Watch
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.parking_space import space_taken
from replication_pipeline.postgres.status import read_contours, read_status
from replication_pipeline.settings import Settings

SQL: Final = queries.load("watch")


def look(connection: Connection[Any], settings: Settings) -> Watch:
    """Everything that the checks judge. ``connection`` must be in autocommit mode.

    Raises ``TransientError`` when the server is away, ``FatalError`` when the SQL is not installed.
    """
    name = settings.contour.name
    status = read_status(connection, name)
    with translating(f"contour {name}: looking at its health"):
        (outcomes,) = connection.execute(SQL["outcomes"], {}).fetchall()
        (queue,) = connection.execute(SQL["queue_health"], {}).fetchall()
        parked = connection.execute(SQL["parked"]).fetchall()
        lags = connection.execute(SQL["apply_lags"]).fetchall()
        pairs = pairs_of(connection, settings)
        space = space_taken(connection, settings)
    return Watch(
        status=status,
        outcomes=Outcomes(*outcomes),
        queue=QueueHealth(*queue),
        parked=[Parked(*row) for row in parked],
        lags=[ApplyLag(*row) for row in lags],
        pairs=pairs,
        parked_space=space,
    )


def pairs_of(connection: Connection[Any], settings: Settings) -> list[Pair]:
    """How each contour stands. Beats are dated by the broker's clock, rounds by their contour's: clocks
    are set right first.
    """
    topics = [topic_for(table, prefix=settings.kafka.topic_prefix) for table in settings.tables]
    contours = read_contours(connection, settings.contour.name)
    arrived = dict(connection.execute(SQL["arrived"], {"topics": topics}).fetchall())
    ((now,),) = connection.execute(SQL["now"]).fetchall()
    ahead = {c.identity.contour: c.clock_ahead or 0.0 for c in contours}
    now -= ahead.get(settings.contour.name, 0.0)

    def since(contour: str) -> float | None:
        taken = arrived.get(contour)
        return None if taken is None else max(0.0, now - (taken - ahead[contour]))

    return [
        Pair(
            c.identity.contour,
            c.state,
            max(0.0, now - c.last_beat),
            since(c.identity.contour),
            c.clock_ahead,
        )
        for c in contours
    ]
