"""A turn of few events in two messages: one begins it, the other ends it.

A publisher that keeps up has an event or two a turn, and then most of the work is asking and answering.
So `begin`, the shards' locks and the claim are one message, and the marks, the counts and `commit` are
another; in between the events are with Kafka. They are the statements that a turn of many events has,
in the same order, each with a snapshot of its own: the claim must see what the shards' former holders
have committed.

A message of several statements takes no parameters, so the statements are prepared in the session and
get numbers and quoted texts. That needs a session of one's own: behind a pooler turns go in steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import RowMaker

from replication_pipeline.domain.model import BatchResult, ClaimedEvent
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.connection import is_shared

SQL: Final = queries.load("outbox")
MOST_MARKS: Final = 100  # more of them are worth a message of their own, sent while Kafka is busy
HEADS: Final = "replication.heads"
SHARDS: Final = "replication.turn_shards"
FLOORS: Final = "replication.turn_floors"


def _rows(cursor: psycopg.Cursor[Any]) -> RowMaker[Any]:
    columns = cursor.description
    return ClaimedEvent._make if columns and len(columns) == len(ClaimedEvent._fields) else tuple


class _AsBytes(Loader):
    """Text as it came, never decoded on its way to Kafka."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


@dataclass(frozen=True, slots=True)
class ShortTurns:
    """Of one session, which ``of`` has prepared."""

    connection: psycopg.Connection
    cursor: psycopg.Cursor[Any]

    @classmethod
    def of(cls, connection: psycopg.Connection, instance: str, large: int) -> ShortTurns | None:
        """``None`` where the session is shared with others. ``large``: as the claim has it, bytes."""
        if is_shared(connection):
            return None
        lock = SQL["lock_shards"] % {"rotation": "$1", "share": "$2"}
        claim = SQL["claim"] % {
            "shards": f"current_setting('{SHARDS}')",
            "floors": f"current_setting('{FLOORS}')",
            "heads": f"current_setting('{HEADS}')",
            "in_hand": "'{}'",
            "seen": "null",
            "limit": "$1",
            "each": "$2",
            "sent": "$3",
            "large": large,
        }
        mark = SQL["mark_published"] % {"slot": "$1[i]", "ctids": "$2[i]"}
        count = SQL["count_published"] % {
            "instance": sql.Literal(instance).as_string(connection),
            "part": "$4",
            "batches": "$5",
            "processed": "$6",
            "failed": "$7",
            "bytes": "$8",
        }
        for name, texts in (
            ("prepare_lock", {"shards": SHARDS, "floors": FLOORS, "lock_shards": lock}),
            ("prepare_claim", {"claim": claim}),
            ("finish_turn", {"mark_published": mark, "count_published": count}),
        ):
            connection.execute(SQL[name].format(**texts).encode())
        cursor = connection.cursor(row_factory=_rows)
        cursor.adapters.register_loader("text", _AsBytes)
        return cls(connection, cursor)

    def begin(
        self, floors: Sequence[int], *, rotation: int, share: int, limit: int, each: int, sent: int
    ) -> tuple[Sequence[int], str, list[ClaimedEvent]]:
        """Begin a turn: the shards that it has now, what was committed before, as a snapshot, and what
        is claimed of them.
        """
        self.cursor.execute(
            f"begin; execute lock_noted({rotation}, {share}, '{_array(floors)}'); "
            f"execute claim_noted({limit}, {each}, {sent})".encode()
        )
        self.cursor.nextset()
        row = self.cursor.fetchone()
        self.cursor.nextset()
        shards, seen = row[:2] if row and row[0] else ((), "")
        return shards, seen, self.cursor.fetchall()

    def finish(
        self, places: Mapping[int, Sequence[str]], part: int, results: Sequence[BatchResult]
    ) -> None:
        """Mark the events at ``places`` by slot, count what the batches did, and commit."""
        slots, ctids = _array(places), ",".join(f"'{_array(those)}'" for those in places.values())
        self.connection.execute(
            f"select pg_temp.finish_turn('{slots}', array[{ctids}]::text[], "
            f"{sum(map(len, places.values()))}, {part}, {len(results)}, "
            f"{sum(result.processed for result in results)}, {sum(r.failed for r in results)}, "
            f"{sum(result.bytes for result in results)}); commit".encode()
        )


def _array(values: Iterable[object]) -> str:
    """As PostgreSQL reads an array of numbers, or of places such as (0,1)."""
    return "{" + ",".join(f'"{value}"' for value in values) + "}"
