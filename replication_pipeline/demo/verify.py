"""The end of a timed demo: wait until everything has arrived, then compare the contours.

Drained means: nothing waits in a queue, nothing is parked, and both contours' stored offsets have
reached the ends of all topics. The ends are asked of Kafka once the queues are empty, for the
contours' own idea of them is as old as their last batch. A slow machine may take its time as long as
something moves.

Equal means: the same rows with the same values, ``replication_version`` included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import sql

from replication_pipeline.demo.contours import TABLES, Contour
from replication_pipeline.demo.live import Eye, Look
from replication_pipeline.domain.names import topic_for
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.postgres.connection import connect

LISTED: Final = 5
LOOK_EVERY: Final = 0.25

Offsets = Mapping[tuple[str, int], int]

DIGEST: Final = sql.SQL(
    "select count(*), md5(coalesce(string_agg(md5(t::text), '' order by id), '')) from {} t"
)
ROWS: Final = sql.SQL("select id, md5(t::text) from {} t")


@dataclass(frozen=True, slots=True)
class TableVerdict:
    """One table in both contours; ``differing`` names the first few keys."""

    table: str
    rows: tuple[int, int]
    differing: Sequence[int]
    equal: bool


def wait_until_drained(
    eyes: Sequence[Eye],
    kafka: EmbeddedKafka,
    *,
    patience: timedelta,
    stopped: Callable[[], bool],
) -> str | None:
    """``None`` once drained, else what is still under way after ``patience`` without any progress."""
    moved_at = time.monotonic()
    before: object = None
    ends: Offsets | None = None
    while True:
        looks = [eye.look() for eye in eyes]
        under_way = [
            words
            for eye, look in zip(eyes, looks, strict=True)
            if (words := _under_way(eye.contour.name, look))
        ]
        if not under_way:
            if ends is None:
                ends = _ends(eyes[0].contour, kafka)
            under_way = [
                f"{behind} events to apply in {eye.contour.name}"
                for eye in eyes
                if (behind := _behind(eye.contour, ends))
            ]
        if not under_way:
            return None
        now = (under_way, [look and (look.status.applied_total, look.captured) for look in looks])
        if now != before:
            before, moved_at = now, time.monotonic()
        if stopped() or time.monotonic() - moved_at > patience.total_seconds():
            return ", ".join(under_way)
        time.sleep(LOOK_EVERY)


def compare(contours: Sequence[Contour]) -> Sequence[TableVerdict]:
    """All tables of both contours."""
    with (
        closing(connect(contours[0].settings, application_name="replicator_demo")) as first,
        closing(connect(contours[1].settings, application_name="replicator_demo")) as second,
    ):
        return [_compare(table, first, second) for table in TABLES]


def windows_since(contour: Contour, started: object) -> int:
    """Windows, of both kinds, that have begun since ``started``."""
    with closing(connect(contour.settings, application_name="replicator_demo")) as session:
        row = session.execute(
            "select count(*) from replication.workers where started_at >= %s", (started,)
        ).fetchone()
    return int(row[0]) if row else 0


def _compare(table: str, first: psycopg.Connection, second: psycopg.Connection) -> TableVerdict:
    name = sql.Identifier("public", table)
    digests = [session.execute(DIGEST.format(name)).fetchone() for session in (first, second)]
    assert digests[0] is not None
    assert digests[1] is not None
    differing: list[int] = []
    if digests[0] != digests[1]:
        rows = [set(session.execute(ROWS.format(name)).fetchall()) for session in (first, second)]
        differing = sorted({key for key, _ in rows[0] ^ rows[1]})[:LISTED]
    return TableVerdict(
        table=table,
        rows=(digests[0][0], digests[1][0]),
        differing=differing,
        equal=digests[0] == digests[1],
    )


def _under_way(name: str, look: Look | None) -> str | None:
    if look is None:
        return f"contour {name} can't be reached"
    parked = look.status.parked_publish + look.status.parked_apply
    words = []
    if look.status.unpublished:
        words.append(f"{look.status.unpublished} events to publish in {name}")
    if parked:
        words.append(f"{parked} events parked in {name}")
    return ", ".join(words) or None


def _ends(contour: Contour, kafka: EmbeddedKafka) -> Offsets:
    prefix = contour.settings.kafka.topic_prefix
    topics = {topic_for(table, prefix=prefix) for table in TABLES}
    ends: dict[tuple[str, int], int] = {}
    # One listing of everything: each call of the tool starts a Java of its own.
    for entry in kafka.tool("kafka-get-offsets").split():
        topic, partition, offset = entry.rsplit(":", 2)
        if topic in topics:
            ends[topic, int(partition)] = int(offset)
    return ends


def _behind(contour: Contour, ends: Offsets) -> int:
    with closing(connect(contour.settings, application_name="replicator_demo")) as session:
        rows = session.execute(
            "select topic, partition, next_offset from replication.consumer_offsets"
        ).fetchall()
    reached = {(topic, partition): offset for topic, partition, offset in rows}
    return sum(max(0, end - reached.get(key, 0)) for key, end in ends.items())
