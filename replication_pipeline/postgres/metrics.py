"""The exporter's reading, in parts that fail each by itself. Statements only, which change nothing.

Most of it is in ``sql/queries/metrics.sql``: a column that is called like a metric is its value, the
others are its labels. Here is what takes more than one statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from psycopg import Connection, rows

from replication_pipeline import __version__
from replication_pipeline.domain.histograms import Histogram
from replication_pipeline.domain.metrics import BY_NAME, HISTOGRAMS, Sample
from replication_pipeline.domain.names import topic_for
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.parking_space import space_taken
from replication_pipeline.postgres.watch import SQL as WATCH
from replication_pipeline.postgres.watch import pairs_of
from replication_pipeline.settings import Settings

SQL: Final = queries.load("metrics")
MOST_PARKED: Final = 1_000  # pairs of table and reason
Told = Sample | tuple[str, tuple[str, ...], Histogram]
Part = Callable[[Connection[Any], Settings], Iterator[Told]]


def read(connection: Connection[Any], settings: Settings, part: str) -> list[Told]:
    """The samples of one part.

    Raises ``TransientError`` when the server is away or takes too long, ``FatalError`` when a right or
    the SQL is missing.
    """
    with translating(f"contour {settings.contour.name}: reading metrics ({part})"):
        return list(PARTS[part](connection, settings))


def _named(query: str) -> Part:
    def read_it(connection: Connection[Any], _settings: Settings) -> Iterator[Told]:
        with connection.cursor(row_factory=rows.dict_row) as cursor:
            for row in cursor.execute(SQL[query], {"version": __version__}):
                for name, value in row.items():
                    if name in BY_NAME and value is not None:
                        labels = tuple(row[label] for label in BY_NAME[name].labels)
                        yield Sample(name, labels, float(value))

    return read_it


def _parked(connection: Connection[Any], settings: Settings) -> Iterator[Told]:
    for side, table, reason, events, oldest in connection.execute(WATCH["parked"]).fetchmany(
        MOST_PARKED
    ):
        labels = (side, table, reason)
        yield Sample("replication_parked_events", labels, events)
        yield Sample("replication_parked_oldest_age_seconds", labels, oldest)
    yield Sample("replication_parked_space_used_ratio", (), space_taken(connection, settings))


def _apply_lag(connection: Connection[Any], settings: Settings) -> Iterator[Told]:
    tables = {topic_for(t, prefix=settings.kafka.topic_prefix): t for t in settings.tables}
    for topic, events, still in connection.execute(WATCH["apply_lags"]):
        if table := tables.get(topic):
            yield Sample("replication_apply_lag_events", (table,), events)
            yield Sample("replication_apply_still_seconds", (table,), still)


def _contours(connection: Connection[Any], settings: Settings) -> Iterator[Told]:
    pairs = pairs_of(connection, settings)
    own = next((p.clock_ahead for p in pairs if p.contour == settings.contour.name), None)
    for pair in pairs:
        peer = (pair.contour,)
        yield Sample("replication_heartbeat_age_seconds", peer, pair.silent)
        yield Sample("replication_contour_fenced", peer, pair.state == "fenced")
        if pair.contour == settings.contour.name:
            continue
        if pair.arrived is not None:
            yield Sample("replication_arrived_age_seconds", peer, pair.arrived)
        if own is not None and pair.clock_ahead is not None:
            yield Sample("replication_clock_skew_seconds", peer, pair.clock_ahead - own)


def _histograms(connection: Connection[Any], settings: Settings) -> Iterator[Told]:
    """Empty ones as well: Prometheus sees no increase in a series that begins above 0."""
    found = {
        (name, role or table): Histogram()
        for name, role in HISTOGRAMS.values()
        for table in ([""] if role else settings.tables)
    }
    for stored, table, counts, total in connection.execute(
        SQL["histograms"], {"tables": list(settings.tables)}
    ):
        name, role = HISTOGRAMS[stored]
        found[name, role or table] = Histogram(counts, int(total))
    for (name, label), histogram in found.items():
        yield name, (label,), histogram


PARTS: Final[Mapping[str, Part]] = {
    "info": _named("info"),
    "lag": _named("lag"),
    "workers": _named("workers"),
    "outcomes": _named("outcomes"),
    "apply_lag": _apply_lag,
    "contours": _contours,
    "queue": _named("queue"),
    "comparisons": _named("comparisons"),
    "histograms": _histograms,
    "parked": _parked,
    "backlog": _named("backlog"),  # the one that a deep queue makes slow
}
