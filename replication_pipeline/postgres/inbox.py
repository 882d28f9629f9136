"""The contour's tables, as the applier uses them: one transaction a batch.

The first statement compares and sets the offsets, and so fences off a consumer that lost its
partitions without knowing it. Everything that a batch does is in that one transaction: rows,
tombstones, conflicts, parked events, counters. What is done to the rows is ``apply_steps``' part.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

import psycopg

from replication_pipeline.domain.errors import (
    OffsetConflictError,
    PoisonError,
    ReplicationError,
    TransientError,
)
from replication_pipeline.domain.model import BatchResult, Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic
from replication_pipeline.domain.signatures import Seal, Verifier
from replication_pipeline.engine.apply import merge
from replication_pipeline.engine.failpoints import armed, failpoint
from replication_pipeline.engine.ports import PoisonErrorLike
from replication_pipeline.engine.under_way import UnderWay, at_once
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.apply_plan import TablePlan
from replication_pipeline.postgres.apply_steps import ApplySteps, Staged, park_whole, total
from replication_pipeline.postgres.connection import is_shared, pin_plans
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.few_events import FewEvents
from replication_pipeline.postgres.foreign_keys import BlockedDelete, ForeignKeyPolicies
from replication_pipeline.postgres.histograms import Histograms
from replication_pipeline.postgres.parking_space import ParkingSpace
from replication_pipeline.postgres.plans import Plans
from replication_pipeline.postgres.session import Session
from replication_pipeline.settings import Settings, verifier_of

SQL: Final = queries.load("apply")
FOREIGN_KEYS: Final = queries.load("foreign_keys")
POSITIONS: Final = queries.load("positions")
APPLICATION_NAME: Final = "replicator_consumer"
HEARTBEAT_EVERY: Final = 5.0  # seconds; `replication.status` calls a worker dead after 15
WITHOUT_ROUNDS: Final = timedelta(minutes=5)  # a blocked delete waits for rounds that don't come
EMPTY: Final = BatchResult(role="applier")

# id, topic, partition, offset, event, whether it is to be verified, by this key and signature
_ParkedRow = tuple[int, str, int, int, bytes, bool, bytes | None, bytes | None]
_Applied = tuple[Sequence[Staged], BatchResult]


class _UnusualError(Exception):
    """A small batch that goes step by step."""


@dataclass(slots=True)
class PostgresInbox:
    """One applier's way to the tables. Not thread-safe: one connection, one batch at a time.

    ``replaying``: for events that come once more, own ones among them, without offsets. They are
    applied by their versions and counted nowhere; an old event that finds a newer row is no conflict,
    and what has to wait for other rows is decided by appliers only.
    """

    settings: Settings
    instance: str
    replaying: bool = False
    under_way: UnderWay = field(default_factory=UnderWay)
    """This applier's batches, some of them over another connection: positions are told after them."""
    _session: Session = field(init=False)
    _plans: Plans = field(init=False)
    _few: FewEvents = field(init=False)
    _verifier: Verifier | None = field(init=False)
    _space: ParkingSpace = field(init=False)
    _next_heartbeat: float = field(default=0.0)
    _anything_parked: bool = field(default=True)
    _shared: bool = field(default=True)  # the session, with others, by a pooler
    _histograms: Histograms = field(default_factory=Histograms)

    def __post_init__(self) -> None:
        self._session = Session(self.settings, application_name=APPLICATION_NAME)
        self._plans = Plans(self.settings)
        self._verifier = verifier_of(self.settings)
        self._space = ParkingSpace(self.settings, patient=not self.replaying)
        self._few = FewEvents(self.settings, self.instance, self._verifier)

    def offsets(self, partitions: Iterable[tuple[Topic, int]]) -> dict[tuple[Topic, int], int]:
        """The stored next offsets of ``partitions``; those never read are absent."""
        wanted = list(partitions)
        self.under_way.wait()
        with self._transaction("reading offsets") as connection:
            rows = connection.execute(
                SQL["stored_offsets"],
                {"topics": [t for t, _ in wanted], "partitions": [p for _, p in wanted]},
            )
            return {(Topic(topic), partition): offset for topic, partition, offset in rows}

    def parents(self) -> dict[Topic, set[Topic]]:
        """By topic those of the tables that its own refers to, as of the last look at the catalog."""
        return self._plans.parents()

    def learn_topics(self, ids: Mapping[Topic, str]) -> dict[Topic, str]:
        """The ids under which these topics are read here; of those never seen, ``ids`` are kept."""
        self.under_way.wait()
        with self._transaction("reading the ids of topics") as connection:
            rows = connection.execute(
                POSITIONS["learn_topics"], {"topics": list(ids), "ids": list(ids.values())}
            )
            return {Topic(topic): topic_id for topic, topic_id in rows}

    def apply(self, batch: Consumed, turn: Callable[[], None] = at_once) -> BatchResult:
        """Apply a batch and move its offsets, in one transaction; ``turn`` is waited for once the
        events are on the server, before anything is done that others see.
        """
        began = time.perf_counter()

        def wait() -> None:
            nonlocal began
            asked = time.perf_counter()
            turn()
            began += time.perf_counter() - asked

        parts, result = self._apply_few(batch, wait) or self._apply_in_steps(batch, wait)
        seconds = time.perf_counter() - began
        if not self.replaying:
            self._observe(parts, seconds)
        return replace(result, duration=timedelta(seconds=seconds))

    def _apply_few(self, batch: Consumed, wait: Callable[[], None]) -> _Applied | None:
        """In one round trip, if the batch is small and nothing about it is unusual."""
        # Points to die at lie between the steps.
        if self.replaying or armed() or not self._few.fit(batch):
            return None
        wait()
        with contextlib.suppress(_UnusualError), self._transaction("applying events") as connection:
            if self._shared:
                raise _UnusualError
            with self._plans_are_true():
                parts = self._few.apply(connection, batch, self._plans)
            if parts is None:
                raise _UnusualError
            return parts, total(parts, batch.messages)
        return None

    def _apply_in_steps(self, batch: Consumed, wait: Callable[[], None]) -> _Applied:
        with self._transaction("applying events") as connection:
            self._begin(connection)
            homeless = [m for m in batch.messages if self._plans.lacks(m)]
            housed = [m for m in batch.messages if not self._plans.lacks(m)]
            steps = self._steps(connection)
            with self._plans_are_true():
                parts = steps.read(housed, again=self.replaying)
            wait()
            self._advance(connection, batch.advances)
            failpoint("offsets_advanced")
            self._park_homeless(connection, homeless)
            with self._plans_are_true():
                steps.apply(parts, again=self.replaying)
            result = total(parts, housed, homeless)
            self._space.take(connection, [m for p in parts for m in p.taken_in] + homeless)
            self._count(connection, result)
            failpoint("applied")
            self._anything_parked |= bool(result.parked) or any(part.displaced for part in parts)
        failpoint("apply_committed")
        return parts, result

    def park(self, batch: Consumed, error: PoisonErrorLike) -> BatchResult:
        """Keep the batch's only message as a parked event, and move its offset past it."""
        (message,) = batch.messages
        with self._transaction("parking an event") as connection:
            self._advance(connection, batch.advances)
            self._park_message(connection, message, error)
            self._space.take(connection, [message])
            failpoint("parked")
            self._anything_parked = True
            result = BatchResult(
                role="applier",
                count=1,
                parked=1,
                failed=1,
                bytes=len(message.value or b""),
                errors={error.reason: 1},
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
        if not self.replaying:
            self._look_after()
        result = self._retry(limit, eagerly=eagerly)
        decides = self._anything_parked and not self.replaying
        return merge(result, self._decide_blocked()) if decides else result

    def close(self) -> None:
        """Mark the worker as ended and disconnect."""
        if self._session.is_open and self._histograms.overdue():
            self._tell_histograms()
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
                self._plans.refresh(connection)
                yield connection
                connection.commit()
        except (PoisonError, _UnusualError):
            self._rollback()
            raise
        except BaseException:
            self._session.drop()
            raise

    @contextlib.contextmanager
    def _plans_are_true(self) -> Iterator[None]:
        """A table that was altered or dropped since the last look at it: look again, then the whole
        batch once more. What is still wrong with plans just made is no matter of theirs.
        """
        try:
            yield
        except psycopg.ProgrammingError as error:
            if self._plans.fresh or not (error.sqlstate or "").startswith("42"):
                raise
            raise TransientError(
                f"contour {self.settings.contour.name}: a table has changed while events were applied; "
                "they are applied again by its new columns"
            ) from error

    def _rollback(self) -> None:
        connection, _ = self._session.connection()
        try:
            connection.rollback()
        except psycopg.Error:
            self._session.drop()

    def _prepare(self, connection: psycopg.Connection) -> None:
        self._plans.forget()
        self._few.forget()
        self._next_heartbeat = 0.0
        # The stage has no statistics; with these the planner always comes from the stage to the
        # tables by their keys, however large they are.
        pin_plans(connection, "enable_hashjoin", "enable_mergejoin")
        connection.execute("select set_config('plan_cache_mode', 'force_generic_plan', false)")
        self._shared = is_shared(connection)
        if not self._shared:
            connection.execute(SQL["fire_no_trigger"], {"of_the_transaction": False})
        # Who stands still for longer has lost its partitions: nobody should wait for its locks.
        longest = round(self.settings.consumer.session_timeout.total_seconds() * 1000)
        connection.execute(SQL["bound_idle_time"], {"milliseconds": str(longest)})
        connection.commit()

    def _steps(self, connection: psycopg.Connection) -> ApplySteps:
        keep_conflicts = not self.replaying
        return ApplySteps(self.settings, self._plans, connection, keep_conflicts, self._verifier)

    def _begin(self, connection: psycopg.Connection) -> None:
        if self._shared:
            connection.execute(SQL["fire_no_trigger"], {"of_the_transaction": True})
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
            raise OffsetConflictError.of(self.settings.contour.name)

    # --- parked events and tombstones ------------------------------------------------------------

    def _look_after(self) -> None:
        """Heartbeat, and deletes that are ready to settle. One that can't is left for next time."""
        with self._transaction("looking for deletes to settle") as connection:
            self._beat(connection)
            unsettled = {name for (name,) in connection.execute(SQL["unsettled_tables"])}
        if self._histograms.overdue(HEARTBEAT_EVERY):
            self._tell_histograms()
        for table_plan in [p for p in self._plans if p.table.name in unsettled]:
            with contextlib.suppress(PoisonError):
                self._settle(table_plan)

    def _retry(
        self, limit: int, *, eagerly: bool, among: Sequence[int] | None = None
    ) -> BatchResult:
        """Try at most ``limit`` parked events again, all in one transaction, or in halves until one
        that fails for its content stands alone: it must not hold up those whose reason has gone.
        """
        claimed: list[int] = []
        try:
            with self._transaction("retrying parked events") as connection:
                rows = connection.execute(
                    SQL["claim_parked"],
                    {
                        "tables": [p.table.name for p in self._plans],
                        "limit": limit,
                        "eagerly": eagerly,
                        "among": among,
                    },
                ).fetchall()
                if not rows:
                    row = connection.execute(SQL["anything_parked"]).fetchone()
                    self._anything_parked = bool(row and row[0])
                    return EMPTY
                self._anything_parked = True
                claimed = [row[0] for row in rows]
                failpoint("parked_claimed")
                self._begin(connection)
                return self._apply_again(connection, rows)
        except PoisonError:
            if len(claimed) <= 1:
                raise
            middle = len(claimed) // 2
            return merge(
                self._retry(limit, eagerly=eagerly, among=claimed[:middle]),
                self._retry(limit, eagerly=eagerly, among=claimed[middle:]),
            )

    def _apply_again(
        self, connection: psycopg.Connection, rows: Sequence[_ParkedRow]
    ) -> BatchResult:
        """Apply parked events, and remove those that are parked no more."""
        messages = [
            Message(
                Topic(topic), partition, offset, event, Seal(key, signature) if verify else None
            )
            for _, topic, partition, offset, event, verify, key, signature in rows
        ]
        try:
            with (
                connection.transaction(),
                translating("applying a parked event"),
                self._plans_are_true(),
            ):
                steps = self._steps(connection)
                parts = steps.apply(steps.read(messages, again=True), again=True)
                connection.execute(SQL["check_constraints"])  # not only at commit
        except PoisonError as error:
            if len(messages) > 1:
                raise
            self._park_message(connection, messages[0], error)
            return EMPTY
        still = {id_ for part in parts for id_, _ in part.parked_ids}
        ids = [row[0] for row in rows if row[0] not in still]
        done = connection.execute(SQL["remove_parked"], {"ids": ids}).rowcount
        if done:
            failpoint("parked_removed")
        result = replace(
            total(parts, messages),
            count=done,
            processed=done,
            parked=0,
            failed=0,
            lag=timedelta(),
            errors={},
        )
        self._count(connection, result)
        return result

    def _decide_blocked(self) -> BatchResult:
        """Let foreign keys' policies decide about deletes that no event on its way can free any more,
        each in a transaction of its own.
        """
        result, last = EMPTY, 0
        while True:
            with self._transaction("deciding about a delete that has children here") as connection:
                patience = self.settings.consumer.foreign_key_patience
                row = connection.execute(
                    FOREIGN_KEYS["blocked_delete"],
                    {
                        "tables": [p.table.name for p in self._plans],
                        "topics": self._plans.topics,
                        "after": last,
                        "patience": patience,
                        "longest": max(patience, WITHOUT_ROUNDS),
                    },
                ).fetchone()
                if row is None:
                    return result
                last, *_, table, key, version = row
                self._begin(connection)
                blocked = BlockedDelete(self._plans.by_name(table).table, key, version)
                if self._policies(connection).decide(blocked) != "waits":
                    parked: _ParkedRow = (*row[:5], False, None, None)
                    result = merge(result, self._apply_again(connection, [parked]))

    def _policies(self, connection: psycopg.Connection) -> ForeignKeyPolicies:
        return ForeignKeyPolicies(
            connection,
            {
                (plan.table.relation, constraint): policy
                for plan in self._plans
                for constraint, policy in self.settings.tables[plan.table.name].foreign_keys.items()
            },
        )

    def _settle(self, table_plan: TablePlan) -> None:
        name = {"table": table_plan.table.name}
        # A transaction of its own, which has no number before it has looked at the tombstones.
        with self._transaction("settling deletes") as connection:
            connection.execute(SQL["mark_settle_horizon"], name)
        with self._transaction("settling deletes") as connection:
            self._begin(connection)
            connection.execute(table_plan.settle, name, prepare=True)
            if table_plan.table.referenced_by:
                self._decide_unsettled(connection, table_plan)

    def _decide_unsettled(self, connection: psycopg.Connection, table_plan: TablePlan) -> None:
        """What did not settle has children: it is decided as if the delete came now."""
        parents = connection.execute(
            FOREIGN_KEYS["unsettled_parents"],
            {
                "table": table_plan.table.name,
                "patience": self.settings.consumer.foreign_key_patience,
            },
        ).fetchall()
        policies = self._policies(connection)
        for key, version in parents:
            policies.decide(BlockedDelete(table_plan.table, key, version))
        if parents:
            connection.execute(table_plan.settle, {"table": table_plan.table.name}, prepare=True)

    def _park_message(
        self, connection: psycopg.Connection, message: Message, error: PoisonErrorLike
    ) -> None:
        table = self._plans.table_name(message.topic)
        park_whole(connection, [(message, table, error.reason, error.message)])

    def _park_homeless(self, connection: psycopg.Connection, messages: Sequence[Message]) -> None:
        tables = [self._plans.table_name(message.topic) for message in messages]
        homeless = [(m, t, "missing_table", t or "") for m, t in zip(messages, tables, strict=True)]
        if homeless:
            park_whole(connection, homeless)

    # --- helpers ---------------------------------------------------------------------------------

    def _beat(self, connection: psycopg.Connection) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_EVERY
            self._count(connection, EMPTY)

    def _observe(self, parts: Sequence[Staged], seconds: float) -> None:
        """What a batch that is committed has taken. A second lane has no other moment to tell it."""
        now = round(time.time() * 1_000_000)
        for part in parts:
            table = part.plan.table.name
            self._histograms.since("end_to_end_lag", table, part.changed_at(), now)
        self._histograms.took("apply_batch", timedelta(seconds=seconds))
        if self._histograms.overdue(2 * HEARTBEAT_EVERY):
            self._tell_histograms()

    def _tell_histograms(self) -> None:
        # Batches are done by then, and are worth more than how long they took.
        with contextlib.suppress(ReplicationError):
            with self._transaction("adding to the histograms") as connection:
                self._histograms.write(connection)

    def _count(self, connection: psycopg.Connection, result: BatchResult) -> None:
        if self.replaying:
            return
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
