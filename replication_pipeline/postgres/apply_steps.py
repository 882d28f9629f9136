"""The steps of applying a batch, within a transaction that somebody else begins and commits.

Decisions are made in SQL (``sql/queries/apply.sql``) under row locks, table by table; this module only
says which statement follows which: stage, lock, decide; park children without parents; write; park
deletes of rows that have children; bury and delete; keep what is parked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import sql

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import BatchResult, Message
from replication_pipeline.domain.origins import Origins
from replication_pipeline.domain.signatures import Seal, Verifier
from replication_pipeline.domain.version import microseconds_of
from replication_pipeline.engine.failpoints import failpoint
from replication_pipeline.postgres.apply_plan import TEMPLATES as SQL
from replication_pipeline.postgres.apply_plan import TablePlan
from replication_pipeline.postgres.catalog import Table, parents_first
from replication_pipeline.postgres.merge_plan import MergePlan, merge_plan
from replication_pipeline.postgres.plans import Plans
from replication_pipeline.postgres.staging import Incoming, Judge, Unfit
from replication_pipeline.postgres.unique_keys import UniquePlan, unique_plan
from replication_pipeline.settings import Settings

SMALL: Final = 500  # events of a table; more are worth plans of their own


@dataclass(slots=True)
class Staged:
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
    displaced: int = 0
    lag: timedelta = timedelta()
    changes: Sequence[int] = ()  # their versions
    deletes: bool = True
    """Whether there may be any; so for what follows."""
    writes: bool = True
    lacks: bool = True
    meets: bool = True  # rows that are here
    rivals: bool = True  # of rows here, or within the batch
    unfit: Sequence[Unfit] = ()
    taken_in: list[Message] = field(default_factory=list)
    """What is parked by this."""
    parked_ids: Sequence[tuple[int, str]] = ()
    """With the reason of each."""
    merging: MergePlan | None = field(init=False)
    """Where columns merge, what is done in another way than for whole rows."""

    def __post_init__(self) -> None:
        self.merging = merge_plan(self.plan.table)

    def learn(self, found: Incoming) -> None:
        """What reading the events has told."""
        self.own, self.staged, self.changes = found.own, found.rows, found.changes
        self.unfit = found.unfit
        if self.merging is None:  # else what is written comes of what is known here as well
            self.deletes, self.writes = found.deletes > 0, found.deletes < found.rows
            self.lacks, self.rivals = found.lacking, found.rivals
        if found.changes:
            age = datetime.now(UTC).timestamp() - microseconds_of(min(found.changes)) / 1_000_000
            self.lag = timedelta(seconds=max(0.0, age))

    def changed_at(self) -> Sequence[int]:
        """When the changes were made, in µs since 1970. Without those that were known already: what is
        sent again is older than what comes for the first time, and its age tells nothing.
        """
        new = sorted(self.changes)[self.duplicates :] if self.duplicates else self.changes
        return [microseconds_of(version) for version in new]


@dataclass(frozen=True, slots=True)
class ApplySteps:
    """The steps, on one connection. ``PoisonError`` where an event can't be applied: roll back."""

    settings: Settings
    plans: Plans
    connection: psycopg.Connection
    keep_conflicts: bool = True
    verifier: Verifier | None = None

    def read(self, messages: Sequence[Message], *, again: bool) -> list[Staged]:
        """Bring events to the server, where nobody else sees them: other batches may be under way."""
        parts = parts_of(messages, self.plans)
        judge = self._judge(again=again)
        for part in parts:
            self._read(part, judge)
        return parts

    def apply(self, parts: list[Staged], *, again: bool) -> list[Staged]:
        """Write what is newer, park what has to wait. ``again``: events that were parked or are
        replayed. Whether ``processed_events`` knows them, and whose they are, does not matter then:
        a contour restored from a backup learns its own from Kafka.
        """
        self._sift(parts, again=again)
        failpoint("staged")
        staged = {part.plan.table.relation: part.plan.table for part in parts}
        unique = [unique_plan(part.plan.table, staged) for part in parts]
        self._guard_parents(parts, unique, staged)
        for part, room in zip(parts, unique, strict=True):
            self._record_conflicts(part, again=again)
            self._make_room(part, room)
            self._write(part)
        failpoint("written")
        self._delete_all(parts, staged)
        failpoint("deleted")
        self._keep_states(parts)
        for part in parts:
            self._finish(part)
            large = len(part.messages) > SMALL
            self._execute(part.plan.truncate_stage if large else part.plan.clear_stage)
        return parts

    def _read(self, part: Staged, judge: Judge) -> None:
        found = Incoming()
        if len(part.messages) > SMALL:
            self._execute(part.plan.truncate_stage)
        with self.connection.cursor() as cursor, cursor.copy(part.plan.stage) as copy:
            for row in part.plan.reader.read(part.messages, judge, found):
                copy.write_row(row)
        part.learn(found)

    def _sift(self, parts: Sequence[Staged], *, again: bool) -> None:
        """Known events go, rows are locked, and of each what is to happen is decided."""
        for part in parts:
            if part.staged and not again:
                fresh = self._plainly(part, part.plan.remember_new)
                if fresh is None:
                    fresh = self._only(part.plan.remember, {"staged": part.staged})
                part.duplicates, part.staged = part.staged - fresh, fresh
            if part.merging is None and part.rivals:
                part.staged = self._only(part.plan.reduce)
            part.meets = self._only(part.plan.lock_rows) > 0
            name = {"table": part.plan.table.name}
            if part.merging is None:
                part.rivals |= self._execute(part.plan.decide, name).rowcount > 0
            else:
                self._execute(part.merging.fold, name | {"events": _json_array(part)})

    def _judge(self, *, again: bool) -> Judge:
        known = self.connection.execute(SQL["known_contours"], prepare=True).fetchall()
        me = "" if again else self.settings.contour.name
        fenced = frozenset(name for name, _, state in known if state != "active")
        ids = {name: number for name, number, state in known if state != "forgotten"}
        return judge(self.settings, me, fenced, ids, self.verifier)

    def _guard_parents(
        self, parts: list[Staged], unique: list[UniquePlan], staged: dict[int, Table]
    ) -> None:
        """No row is written whose parent is missing. A parent in the batch counts, unless it is
        parked itself: hence again and again until nothing more is parked.
        """
        # First without locks, then the parents that are left are locked, then once more: a parent
        # that came in between belongs to an event that is parked already, and one that left is seen.
        # What a unique index keeps out is no parent either.
        checks = [
            statement
            for part, kept_out in zip(parts, unique, strict=True)
            for statement in (
                *part.plan.park_orphans(staged),
                *part.plan.park_moved(staged),
                *kept_out.blocked,
            )
        ]
        self._until_stable(checks)
        if rivals := [s for each in unique for s in each.rivals]:
            self._until_stable([*rivals, *checks])
        for part in parts:
            for statement in part.plan.lock_parents:
                self._execute(statement)
        self._until_stable(checks)

    def _record_conflicts(self, part: Staged, *, again: bool) -> None:
        if not self.keep_conflicts or not part.rivals:
            return  # each event replaces what its writer saw
        row = self._execute(
            part.merging.record_conflicts if part.merging else part.plan.record_conflicts,
            {
                "table": part.plan.table.name,
                "contour_id": self.settings.contour.id,
                "again": again,
            },
        ).fetchone()
        part.conflicts = row[0] if row else 0

    def _make_room(self, part: Staged, unique: UniquePlan) -> None:
        """For values of unique indexes: rows that give way to newer ones, or leave in this batch."""
        for statement in unique.lock_displaced:
            self._execute(statement)
        for statement in unique.displace:
            part.displaced += self._execute(
                statement,
                {
                    "topic": part.messages[0].topic,
                    "table": part.plan.table.name,
                    "contour": self.settings.contour.name,
                },
            ).rowcount
        for statement in unique.step_down:
            part.displaced += self._execute(statement, {"table": part.plan.table.name}).rowcount
        for statement in unique.make_way:
            self._execute(statement)

    def _write(self, part: Staged) -> None:
        if not part.writes:
            return
        name = {"table": part.plan.table.name}
        if part.plan.make_way is not None:
            self._execute(part.plan.make_way)
        alone = not part.meets and part.merging is None
        written = self._plainly(part, part.plan.insert_new) if alone else None
        if written is None:
            written = self._execute(part.plan.upsert(), {"missing": None}).rowcount
        column_sets = self._execute(part.plan.column_sets).fetchall() if part.lacks else ()
        for (missing,) in column_sets:
            written += self._execute(part.plan.upsert(missing), {"missing": missing}).rowcount
        if part.merging and written != self._only(part.merging.to_write):
            raise self._overtaken(part, "inserted")
        if self._execute(part.plan.sweep_resurrected, name).rowcount:
            raise self._overtaken(part, "deleted")

    def _plainly(self, part: Staged, statement: sql.Composed) -> int | None:
        """How many rows a large batch has inserted; ``None``: one was there, and all are taken back."""
        if len(part.messages) <= SMALL:
            return None
        try:
            with self.connection.transaction():
                return self._execute(statement).rowcount
        except psycopg.errors.UniqueViolation:
            return None

    def _overtaken(self, part: Staged, what: str) -> TransientError:
        return TransientError(
            f"contour {self.settings.contour.name}: rows of {part.plan.table.name} were {what} "
            "here while the batch was applied; it is decided again"
        )

    def _delete_all(self, parts: list[Staged], staged: dict[int, Table]) -> None:
        deleting = [part for part in parts if part.deletes]
        self._until_stable([s for part in deleting for s in part.plan.park_referenced(staged)])
        for part in reversed(deleting):
            self._execute(part.plan.bury, {"table": part.plan.table.name})
            self._execute(part.plan.delete_rows)

    def _keep_states(self, parts: Sequence[Staged]) -> None:
        """After all rows are locked: a local writer takes the same locks in the same order."""
        for part in parts:
            if part.merging is None:
                continue
            self._execute(part.merging.park_folded)
            if self._only(part.merging.keep_states, {"table": part.plan.table.name}):
                raise self._overtaken(part, "written")

    def _until_stable(self, statements: Sequence[sql.Composed]) -> None:
        """Repeat: what is parked by one statement may be what another one relied on."""
        while sum(self._execute(statement).rowcount for statement in statements):
            pass

    def _finish(self, part: Staged) -> None:
        row = self._execute(part.plan.count_verdicts).fetchone()
        assert row is not None
        part.applied, part.skipped, part.parked = row
        if part.merging:
            part.applied += self._only(part.merging.count_folded)
        rows = part.own + part.duplicates + part.staged + len(part.unfit)
        part.skipped += max(0, len(part.messages) - rows)
        if part.parked:
            seqs = [s for s, _ in self._execute(part.plan.parked_seqs)]
            messages = part.taken_in = [part.messages[seq - 1] for seq in seqs]
            part.parked_ids = self._execute(
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
        if part.unfit:
            name = part.plan.table.name
            part.taken_in += [part.messages[u.seq - 1] for u in part.unfit]
            unfit = [(part.messages[u.seq - 1], name, u.reason, u.detail) for u in part.unfit]
            part.parked += len(unfit)
            part.parked_ids = [*part.parked_ids, *park_whole(self.connection, unfit)]

    def _only(self, statement: sql.Composed, parameters: dict[str, Any] | None = None) -> Any:
        row = self._execute(statement, parameters).fetchone()
        assert row is not None
        return row[0]

    def _execute(
        self, statement: sql.Composed, parameters: dict[str, Any] | None = None
    ) -> psycopg.Cursor[Any]:
        return self.connection.execute(statement, parameters or {}, prepare=True)


def _json_array(part: Staged) -> str:
    """All of them by their places; each is a JSON object, as it has been read, or null."""
    unfit = {each.seq for each in part.unfit}
    return "[" + ",".join(
        "null" if seq in unfit else (message.value or b"null").decode()
        for seq, message in enumerate(part.messages, 1)
    ) + "]"  # fmt: skip


def park_whole(
    connection: psycopg.Connection, events: Sequence[tuple[Message, str | None, str, str]]
) -> list[tuple[int, str]]:
    """Keep messages as they came, each with its table, reason and detail."""
    seals = [m.seal or Seal(None, None) if r == "bad_signature" else None for m, _, r, _ in events]
    return connection.execute(
        SQL["park_whole"],
        {
            "topics": [m.topic for m, *_ in events],
            "partitions": [m.partition for m, *_ in events],
            "offsets": [m.offset for m, *_ in events],
            "tables": [table for _, table, _, _ in events],
            "reasons": [reason for _, _, reason, _ in events],
            "details": [detail for _, _, _, detail in events],
            "events": [m.value or b"" for m, *_ in events],
            "keys": [None if seal is None else seal.key for seal in seals],
            "signatures": [None if seal is None else seal.signature for seal in seals],
        },
    ).fetchall()


def parts_of(messages: Sequence[Message], plans: Plans) -> list[Staged]:
    """The events of each table, parents first."""
    by_table: dict[str, list[Message]] = {}
    found: dict[str, TablePlan] = {}
    for message in messages:
        plan = plans.of(message)
        found[plan.table.name] = plan
        by_table.setdefault(plan.table.name, []).append(message)
    ordered = parents_first(plan.table for plan in found.values())
    return [Staged(found[table.name], by_table[table.name]) for table in ordered]


def judge(
    settings: Settings,
    me: str,
    fenced: frozenset[str],
    ids: Mapping[str, int],
    verifier: Verifier | None,
) -> Judge:
    """By what events that come now are judged. ``ids``: of contours that heartbeats have made known.
    If the configuration lists contours, these are known by that alone.
    """
    newest = datetime.now(UTC) + settings.consumer.max_clock_skew
    here, listed = settings.contour, settings.security.contours
    return Judge(
        me=me,
        here=here.name,
        fenced=fenced,
        newest_clock=int(newest.timestamp() * 1_000_000),
        origins=Origins({**(listed or ids), here.name: here.id}, closed=bool(listed)),
        verifier=verifier,
    )


def total(
    parts: Sequence[Staged], messages: Sequence[Message], homeless: Sequence[Message] = ()
) -> BatchResult:
    """What became of ``messages``, over all tables; ``homeless`` ones are parked whole."""
    messages = [*messages, *homeless]
    parked = len(homeless) + sum(part.parked for part in parts)
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
        errors=Counter(
            [reason for part in parts for _, reason in part.parked_ids]
            + ["missing_table"] * len(homeless)
        ),
    )
