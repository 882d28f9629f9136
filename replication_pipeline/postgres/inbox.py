"""The contour's tables, as the applier uses them: one transaction a batch.

The first statement compares and sets the offsets, and so fences off a consumer that lost its
partitions without knowing it. Everything that a batch does is in that one transaction: rows,
tombstones, conflicts, parked events, counters. Decisions are made in SQL (``sql/queries/apply.sql``)
under row locks; this module only says which statement follows which.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import sql

from replication_pipeline.domain.errors import (
    FatalError,
    OffsetConflictError,
    PoisonError,
    TransientError,
)
from replication_pipeline.domain.model import BatchResult, Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.domain.version import microseconds_of
from replication_pipeline.engine.apply import merge
from replication_pipeline.engine.ports import PoisonErrorLike
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.apply_plan import TablePlan, plan
from replication_pipeline.postgres.catalog import Table, parents_first, read_tables
from replication_pipeline.postgres.connection import pin_plans
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.session import Session
from replication_pipeline.settings import Settings

SQL: Final = queries.load("apply")
APPLICATION_NAME: Final = "replicator_consumer"
HEARTBEAT_EVERY: Final = 5.0  # seconds; `replication.status` calls a worker dead after 15
PLANS_EVERY: Final = 5.0  # seconds between looks at the catalog for changed tables
EMPTY: Final = BatchResult(role="applier")


@dataclass(slots=True)
class _Staged:
    """One table's part of a batch, and what became of it."""

    plan: TablePlan
    messages: Sequence[Message]
    own: int = 0
    duplicates: int = 0
    staged: int = 0
    applied: int = 0
    skipped: int = 0
    parked: int = 0
    conflicts: int = 0
    lag: timedelta = timedelta()
    parked_ids: Sequence[tuple[int]] = ()


@dataclass(slots=True)
class PostgresInbox:
    """One applier's way to the tables. Not thread-safe: one connection, one batch at a time."""

    settings: Settings
    instance: str
    _session: Session = field(init=False)
    _plans: dict[str, TablePlan] = field(default_factory=dict)
    _by_topic: dict[Topic, str] = field(default_factory=dict)
    _plans_due: float = field(default=0.0)
    _next_heartbeat: float = field(default=0.0)
    _anything_parked: bool = field(default=True)

    def __post_init__(self) -> None:
        self._session = Session(self.settings, application_name=APPLICATION_NAME)
        self._by_topic = {
            topic_for(table, prefix=self.settings.kafka.topic_prefix): table
            for table in self.settings.tables
        }

    def offsets(self, partitions: Iterable[tuple[Topic, int]]) -> dict[tuple[Topic, int], int]:
        """The stored next offsets of ``partitions``; those never read are absent."""
        wanted = list(partitions)
        with self._transaction("reading offsets") as connection:
            rows = connection.execute(
                SQL["stored_offsets"],
                {"topics": [t for t, _ in wanted], "partitions": [p for _, p in wanted]},
            )
            return {(Topic(topic), partition): offset for topic, partition, offset in rows}

    def apply(self, batch: Consumed) -> BatchResult:
        """Apply a batch and move its offsets, in one transaction."""
        with self._transaction("applying events") as connection:
            self._begin(connection)
            self._advance(connection, batch.advances)
            parts = self._apply_messages(connection, batch.messages, again=False)
            result = _sum(parts, batch.messages)
            self._count(connection, result)
            self._anything_parked |= bool(result.parked)
            return result

    def park(self, batch: Consumed, error: PoisonErrorLike) -> BatchResult:
        """Keep the batch's only message as a parked event, and move its offset past it."""
        (message,) = batch.messages
        with self._transaction("parking an event") as connection:
            self._advance(connection, batch.advances)
            self._park_message(connection, message, error)
            self._anything_parked = True
            result = BatchResult(
                role="applier", count=1, parked=1, failed=1, bytes=len(message.value or b"")
            )
            self._count(connection, result)
            return result

    @property
    def anything_parked(self) -> bool:
        """Whether any event is parked, as of this worker's last look."""
        return self._anything_parked

    def retry_parked(self, limit: int, *, eagerly: bool) -> BatchResult:
        """Try parked events again, and finish deletes that were waiting to settle.

        Events whose reason still stands stay parked. Also renews the heartbeat of an idle worker.
        """
        self._look_after()
        try:
            return self._retry(limit, eagerly=eagerly) or EMPTY
        except PoisonError:
            # One of them fails for its content: one by one, so that it holds up no other.
            result = EMPTY
            for _ in range(limit):
                one = self._retry(1, eagerly=False)
                if one is None:
                    break
                result = merge(result, one)
            return result

    def close(self) -> None:
        """Mark the worker as ended and disconnect."""
        self._session.close(self.instance)

    # --- one transaction -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, doing: str) -> Iterator[psycopg.Connection]:
        """A transaction that commits at the end of the block. Any failure drops the connection, so
        that no half-known state is ever carried on.
        """
        try:
            with translating(f"contour {self.settings.contour.name}: {doing}"):
                connection, new = self._session.connection()
                if new:
                    self._prepare(connection)
                self._refresh_plans(connection)
                yield connection
                connection.commit()
        except PoisonError:
            self._rollback()
            raise
        except BaseException:
            self._session.drop()
            raise

    def _rollback(self) -> None:
        connection, _ = self._session.connection()
        try:
            connection.rollback()
        except psycopg.Error:
            self._session.drop()

    def _prepare(self, connection: psycopg.Connection) -> None:
        self._plans.clear()
        self._plans_due = 0.0
        self._next_heartbeat = 0.0
        # The stage has no statistics; with these the planner always comes from the stage to the
        # tables by their keys, however large they are.
        pin_plans(connection, "enable_hashjoin", "enable_mergejoin")
        connection.commit()

    def _begin(self, connection: psycopg.Connection) -> None:
        connection.execute(SQL["begin_apply"])
        connection.execute(SQL["defer_constraints"])

    def _advance(
        self, connection: psycopg.Connection, advances: Sequence[PartitionAdvance]
    ) -> None:
        row = connection.execute(
            SQL["advance_offsets"],
            {
                "topics": [a.topic for a in advances],
                "partitions": [a.partition for a in advances],
                "expected": [a.expected for a in advances],
                "next": [a.next_offset for a in advances],
                "high": [a.high_watermark for a in advances],
            },
        ).fetchone()
        if not (row and row[0]):
            raise OffsetConflictError(
                f"contour {self.settings.contour.name}: another consumer moved an offset first; "
                "the batch is dropped and read again"
            )

    def _apply_messages(
        self, connection: psycopg.Connection, messages: Sequence[Message], *, again: bool
    ) -> list[_Staged]:
        parts = self._stage_all(connection, messages, again=again)
        self._guard_parents(connection, parts)
        for part in parts:
            self._write(connection, part)
        self._delete_all(connection, parts)
        for part in parts:
            self._finish(connection, part)
        return parts

    # --- the steps -------------------------------------------------------------------------------

    def _stage_all(
        self, connection: psycopg.Connection, messages: Sequence[Message], *, again: bool
    ) -> list[_Staged]:
        by_table: dict[str, list[Message]] = {}
        for message in messages:
            by_table.setdefault(self._table_of(message), []).append(message)
        plans = {table: self._plan_of(table) for table in by_table}
        ordered = parents_first(p.table for p in plans.values())
        parts = [_Staged(plans[table.name], by_table[table.name]) for table in ordered]
        for part in parts:
            self._stage(connection, part, again=again)
            self._execute(connection, part.plan.lock_rows)
            self._execute(connection, part.plan.decide, {"table": part.plan.table.name})
        return parts

    def _stage(self, connection: psycopg.Connection, part: _Staged, *, again: bool) -> None:
        skew = self.settings.consumer.max_clock_skew
        now = datetime.now(UTC)
        row = self._execute(
            connection,
            part.plan.stage,
            {
                "events": _json_array(part.messages),
                "contour": self.settings.contour.name,
                "again": again,
                "newest_clock": int((now + skew).timestamp() * 1_000_000),
            },
        ).fetchone()
        assert row is not None
        incoming, well_formed, foreign, fresh, part.staged, oldest = row
        if not well_formed == incoming == len(part.messages):
            raise PoisonError(
                f"{part.plan.table.name}: not an event of replication_pipeline",
                reason="malformed",
                remedy="find out who else writes to the topic",
            )
        part.own = incoming - foreign
        part.duplicates = 0 if again else foreign - fresh
        if oldest is not None:
            age = now.timestamp() - microseconds_of(oldest) / 1_000_000
            part.lag = timedelta(seconds=max(0.0, age))

    def _guard_parents(self, connection: psycopg.Connection, parts: list[_Staged]) -> None:
        """No row is written whose parent is missing. A parent in the batch counts, unless it is
        parked itself: hence again and again until nothing more is parked.
        """
        # First without locks, then the parents that are left are locked, then once more: a parent
        # that came in between belongs to an event that is parked already, and one that left is seen.
        staged = _staged_tables(parts)
        orphans = [s for part in parts for s in part.plan.park_orphans(staged)]
        self._until_stable(connection, orphans)
        for part in parts:
            for statement in part.plan.lock_parents:
                self._execute(connection, statement)
        self._until_stable(connection, orphans)

    def _write(self, connection: psycopg.Connection, part: _Staged) -> None:
        name = {"table": part.plan.table.name}
        row = self._execute(
            connection,
            part.plan.record_conflicts,
            name | {"contour_id": self.settings.contour.id},
        ).fetchone()
        part.conflicts = row[0] if row else 0
        if part.plan.make_way is not None:
            self._execute(connection, part.plan.make_way)
        self._execute(connection, part.plan.upsert(), {"missing": None})
        for (missing,) in self._execute(connection, part.plan.column_sets).fetchall():
            self._execute(connection, part.plan.upsert(missing), {"missing": missing})
        if self._execute(connection, part.plan.sweep_resurrected, name).rowcount:
            raise TransientError(
                f"contour {self.settings.contour.name}: rows of {part.plan.table.name} were deleted "
                "here while the batch was applied; it is decided again"
            )

    def _delete_all(self, connection: psycopg.Connection, parts: list[_Staged]) -> None:
        staged = _staged_tables(parts)
        self._until_stable(
            connection, [s for part in parts for s in part.plan.park_referenced(staged)]
        )
        for part in reversed(parts):
            self._execute(connection, part.plan.bury, {"table": part.plan.table.name})
            self._execute(connection, part.plan.delete_rows)

    def _until_stable(
        self, connection: psycopg.Connection, statements: Sequence[sql.Composed]
    ) -> None:
        """Repeat: what is parked by one statement may be what another one relied on."""
        while sum(self._execute(connection, statement).rowcount for statement in statements):
            pass

    def _finish(self, connection: psycopg.Connection, part: _Staged) -> None:
        row = self._execute(connection, part.plan.count_verdicts).fetchone()
        assert row is not None
        part.applied, part.skipped, part.parked = row
        part.skipped += max(0, len(part.messages) - part.own - part.duplicates - part.staged)
        if part.parked:
            seqs = [s for s, _ in self._execute(connection, part.plan.parked_seqs)]
            messages = [part.messages[seq - 1] for seq in seqs]
            part.parked_ids = self._execute(
                connection,
                part.plan.park_staged,
                {
                    "table": part.plan.table.name,
                    "seqs": seqs,
                    "topics": [m.topic for m in messages],
                    "partitions": [m.partition for m in messages],
                    "offsets": [m.offset for m in messages],
                    "events": [m.value for m in messages],
                },
            ).fetchall()

    # --- parked events and tombstones ------------------------------------------------------------

    def _look_after(self) -> None:
        """Heartbeat, and deletes that are ready to settle. One that can't is left for next time."""
        with self._transaction("looking for deletes to settle") as connection:
            self._beat(connection)
            unsettled = {name for (name,) in connection.execute(SQL["unsettled_tables"])}
        for table_plan in [p for p in self._plans.values() if p.table.name in unsettled]:
            with contextlib.suppress(PoisonError):
                self._settle(table_plan)

    def _retry(self, limit: int, *, eagerly: bool) -> BatchResult | None:
        """One transaction over at most ``limit`` parked events; ``None`` when none is due."""
        with self._transaction("retrying parked events") as connection:
            rows = connection.execute(
                SQL["claim_parked"],
                {"tables": list(self.settings.tables), "limit": limit, "eagerly": eagerly},
            ).fetchall()
            if not rows:
                row = connection.execute(SQL["anything_parked"]).fetchone()
                self._anything_parked = bool(row and row[0])
                return None
            messages = [
                Message(Topic(topic), partition, offset, event)
                for _, topic, partition, offset, event in rows
            ]
            self._begin(connection)
            try:
                with connection.transaction(), translating("applying a parked event"):
                    parts = self._apply_messages(connection, messages, again=True)
                    connection.execute(SQL["check_constraints"])  # not only at commit
            except PoisonError as error:
                if len(messages) > 1:
                    raise
                self._park_message(connection, messages[0], error)
                return EMPTY
            still = {id_ for part in parts for (id_,) in part.parked_ids}
            ids = [row[0] for row in rows if row[0] not in still]
            done = connection.execute(SQL["remove_parked"], {"ids": ids}).rowcount
            result = replace(
                _sum(parts, messages),
                count=done,
                processed=done,
                parked=0,
                failed=0,
                lag=timedelta(),
            )
            self._count(connection, result)
            return result

    def _settle(self, table_plan: TablePlan) -> None:
        name = {"table": table_plan.table.name}
        # A transaction of its own, which has no number before it has looked at the tombstones.
        with self._transaction("settling deletes") as connection:
            connection.execute(SQL["mark_settle_horizon"], name)
        with self._transaction("settling deletes") as connection:
            self._begin(connection)
            self._execute(connection, table_plan.settle, name)

    def _park_message(
        self, connection: psycopg.Connection, message: Message, error: PoisonErrorLike
    ) -> None:
        connection.execute(
            SQL["park_message"],
            {
                "topic": message.topic,
                "partition": message.partition,
                "offset": message.offset,
                "table": self._by_topic.get(message.topic),
                "reason": error.reason,
                "detail": error.message,
                "event": message.value or b"",
            },
        )

    # --- helpers ---------------------------------------------------------------------------------

    def _table_of(self, message: Message) -> str:
        table = self._by_topic.get(message.topic)
        if table is None or message.value is None:
            raise PoisonError(
                f"{message.topic} [{message.partition}] offset {message.offset}: no event",
                reason="malformed" if table else "unknown_table",
            )
        return table

    def _refresh_plans(self, connection: psycopg.Connection) -> None:
        """Look now and then whether tables have changed; make the stages of those that have.

        In a transaction of its own, so that no rollback takes a stage away.
        """
        now = time.monotonic()
        if now < self._plans_due:
            return
        current = read_tables(connection, self.settings.tables)
        if {p.table for p in self._plans.values()} != set(current.values()):
            self._plans = {name: plan(table) for name, table in current.items()}
            for table_plan in self._plans.values():
                self._execute(connection, table_plan.create_stage)
        connection.commit()
        self._plans_due = now + PLANS_EVERY

    def _plan_of(self, table: str) -> TablePlan:
        try:
            return self._plans[table]
        except KeyError:
            raise FatalError(
                f"contour {self.settings.contour.name}: table {table} is configured, but not set "
                "up in the database",
                remedy=f"replication-pipeline setup-table {table}",
            ) from None

    def _execute(
        self,
        connection: psycopg.Connection,
        statement: sql.Composed,
        parameters: dict[str, Any] | None = None,
    ) -> psycopg.Cursor[Any]:
        return connection.execute(statement, parameters or {}, prepare=True)

    def _beat(self, connection: psycopg.Connection) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_EVERY
            self._count(connection, EMPTY)

    def _count(self, connection: psycopg.Connection, result: BatchResult) -> None:
        connection.execute(
            SQL["count_applied"],
            {
                "instance": self.instance,
                "batches": 1 if result.count else 0,
                "processed": result.processed,
                "failed": result.failed,
                "applied": result.applied,
                "skipped": result.skipped,
                "conflicts": result.conflicts,
                "bytes": result.bytes,
            },
        )


def _staged_tables(parts: Sequence[_Staged]) -> dict[int, Table]:
    return {part.plan.table.relation: part.plan.table for part in parts}


def _json_array(messages: Sequence[Message]) -> str:
    """The messages as one array. One that is no object would shift the others' places: refused."""
    for message in messages:
        value = (message.value or b"").strip()
        if value[:1] != b"{" or value[-1:] != b"}":
            raise PoisonError("an event is not a JSON object", reason="malformed")
    try:
        return "[" + ",".join((m.value or b"null").decode() for m in messages) + "]"
    except UnicodeDecodeError:
        raise PoisonError("an event is not UTF-8", reason="malformed") from None


def _sum(parts: Sequence[_Staged], messages: Sequence[Message]) -> BatchResult:
    parked = sum(part.parked for part in parts)
    return BatchResult(
        role="applier",
        count=len(messages),
        processed=len(messages) - parked,
        parked=parked,
        applied=sum(part.applied for part in parts),
        skipped=sum(part.skipped for part in parts),
        own=sum(part.own for part in parts),
        duplicates=sum(part.duplicates for part in parts),
        conflicts=sum(part.conflicts for part in parts),
        bytes=sum(len(message.value or b"") for message in messages),
        lag=max((part.lag for part in parts), default=timedelta()),
        per_table=Counter({part.plan.table.name: part.applied for part in parts if part.applied}),
    )
