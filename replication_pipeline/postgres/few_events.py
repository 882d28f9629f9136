"""A few events in one round trip: the steps of ``apply_steps`` within the database.

An applier that keeps up gets an event or two at a time, and then most of the work is asking and
answering. So the same statements, in the same order, are the body of a function, one for each set of
tables that come together; it lives as long as the session. It does what is usual and nothing else:
where an event would have to wait for another row or to be decided again, where columns merge or rows
give way, the batch is rolled back and goes step by step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from replication_pipeline.domain.errors import OffsetConflictError
from replication_pipeline.domain.model import Consumed, Message
from replication_pipeline.domain.signatures import Verifier
from replication_pipeline.domain.version import contour_id_of
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.apply_plan import TEMPLATES, TablePlan
from replication_pipeline.postgres.apply_steps import Staged, judge, parts_of
from replication_pipeline.postgres.catalog import Table
from replication_pipeline.postgres.fragments import Names, comma
from replication_pipeline.postgres.plans import Plans
from replication_pipeline.postgres.staging import NEWEST, Incoming, Row
from replication_pipeline.postgres.unique_keys import UniquePlan, unique_plan
from replication_pipeline.settings import Settings

PARTS: Final = queries.load("apply_few")
MOST_EVENTS: Final = 100  # more of them are worth the round trips of a COPY
MOST_BYTES: Final = 256 * 1024
MOST_FUNCTIONS: Final = 64  # of a session
# Of the function's parameters: those that belong to no table, then those of each.
COMMON: Final[tuple[LiteralString, ...]] = (
    "text[]", "integer[]", "bigint[]", "bigint[]", "bigint[]", "text", "bigint", "bigint", "text[]",
    "integer[]",
)  # fmt: skip
OF_A_TABLE: Final[tuple[LiteralString, ...]] = ("text[]", "boolean", "boolean")
_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s|%%")


@dataclass(frozen=True, slots=True)
class _Function:
    plans: Sequence[TablePlan]  # kept alive, as they are known by their identity
    call: sql.SQL


@dataclass(slots=True)
class FewEvents:
    """Of one session. ``apply`` runs within a transaction that somebody else begins and ends."""

    settings: Settings
    instance: str
    verifier: Verifier | None = None
    _functions: dict[tuple[int, ...], _Function] = field(default_factory=dict)

    def forget(self) -> None:
        """A new session has no functions."""
        self._functions.clear()

    def fit(self, batch: Consumed) -> bool:
        """Whether the batch is small."""
        return len(batch.messages) <= MOST_EVENTS and _bytes(batch.messages) <= MOST_BYTES

    def apply(
        self, connection: psycopg.Connection, batch: Consumed, plans: Plans
    ) -> list[Staged] | None:
        """What became of the batch; ``None`` when it has to go step by step, after a rollback."""
        values: list[object] = []
        origins: set[tuple[str, int | None]] = set()
        if any(plans.lacks(message) for message in batch.messages):
            return None
        parts = parts_of(batch.messages, plans)
        # Fences, and whose the versions are, are asked there.
        by = judge(self.settings, self.settings.contour.name, frozenset(), {}, self.verifier)
        for part in parts:
            if part.merging or part.plan.table.displace:
                return None
            found = Incoming()
            rows = list(part.plan.reader.read(part.messages, by, found))
            if (
                found.rivals
                or found.lacking
                or found.elsewhere
                or found.unfit
                or any(row[8] != "apply" for row in rows)
            ):
                return None
            origins.update(map(_origin, rows))
            part.learn(found)
            if rows:
                values += [
                    [_composite(row) for row in rows],
                    found.deletes < found.rows,
                    found.deletes > 0,
                ]
        staged = [part for part in parts if part.staged]
        function = self._function(connection, [part.plan for part in staged])
        if function is None:
            return None
        advances = batch.advances
        row = connection.execute(
            function.call,
            [
                [a.topic for a in advances],
                [a.partition for a in advances],
                [a.expected for a in advances],
                [a.next_offset for a in advances],
                [a.high_watermark for a in advances],
                self.instance,
                len(batch.messages),
                _bytes(batch.messages),
                [contour for contour, _ in origins],
                [number for _, number in origins],
                *values,
            ],
            prepare=True,
        ).fetchone()
        assert row is not None
        advanced, usual, *told = row
        if not advanced:
            raise OffsetConflictError.of(self.settings.contour.name)
        if not usual:
            return None
        for part, (fresh, applied, skipped, conflicts) in zip(
            staged, zip(*[each or () for each in told], strict=True), strict=True
        ):
            part.duplicates, part.staged = part.staged - fresh, fresh
            part.applied, part.skipped, part.conflicts = applied, skipped, conflicts
        return parts

    def _function(
        self, connection: psycopg.Connection, plans: Sequence[TablePlan]
    ) -> _Function | None:
        key = tuple(id(plan) for plan in plans)
        found = self._functions.get(key)
        if found is None and len(self._functions) < MOST_FUNCTIONS:
            name = f"apply_few_{len(self._functions)}"
            connection.execute(_definition(name, plans, self.settings))
            connection.commit()  # no rollback of the batch takes it away
            call = sql.SQL("select * from pg_temp.{}({})").format(
                sql.Identifier(name), comma(sql.SQL("%s::" + kind) for kind in _types(plans))
            )
            found = _Function(plans, sql.SQL(call.as_string()))
            self._functions[key] = found
        return found


def _bytes(messages: Sequence[Message]) -> int:
    return sum(len(message.value or b"") for message in messages)


def _origin(row: Row) -> tuple[str, int | None]:
    """A contour, and the number in the version, unless that may be somebody else's (``staging``)."""
    _, _, contour, version, base, op, *_ = row
    assert isinstance(contour, str) and isinstance(version, int)  # noqa: PT018
    return contour, None if op == "r" or base == NEWEST else contour_id_of(version)


def _composite(row: Row) -> str:
    """A row of the stage as PostgreSQL reads a composite value. What only later steps know is null."""
    seq, event_id, contour, version, base, op, key, missing, verdict, reason, detail, *values = row
    told = (seq, event_id, contour, version, base, op, key, missing, None, None, None)
    return f"({','.join(map(_field, (*told, verdict, reason, detail, None, *values)))})"


def _field(value: object) -> str:
    if value is None:
        return ""
    if type(value) is int:
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '""') + '"'


def _types(plans: Sequence[TablePlan]) -> list[LiteralString]:
    return [*COMMON, *OF_A_TABLE * len(plans)]


def _definition(name: str, plans: Sequence[TablePlan], settings: Settings) -> sql.Composed:
    tables = {plan.table.relation: plan.table for plan in plans}
    unique = [unique_plan(plan.table, tables) for plan in plans]
    return sql.SQL(PARTS["function"]).format(
        name=sql.Identifier(name),
        parameters=sql.SQL(", ").join(map(sql.SQL, _types(plans))),
        body=sql.Literal(_body(plans, tables, unique, settings)),
    )


def _body(
    plans: Sequence[TablePlan],
    tables: Mapping[int, Table],
    unique: Sequence[UniquePlan],
    settings: Settings,
) -> str:
    known = {
        "topics": "$1", "partitions": "$2", "expected": "$3", "next": "$4", "high": "$5",
        "instance": "$6", "processed": "$7", "bytes": "$8", "batches": "1", "failed": "0",
        "applied": "n_applied", "skipped": "n_skipped", "conflicts": "n_conflicts",
        "contour_id": str(settings.contour.id), "again": "false", "missing": "null",
    }  # fmt: skip
    # Who is listed in the configuration is known by that alone.
    begin = {
        "advance_offsets": TEMPLATES["advance_offsets"],
        "open": "false" if settings.security.contours else "true",
    }

    def part(
        name: str, statements: Mapping[str, sql.Composed | str], more: Mapping[str, str]
    ) -> str:
        return _fill(PARTS[name], {k: plain(s, more) for k, s in statements.items()} | dict(more))

    def plain(statement: sql.Composed | str, more: Mapping[str, str]) -> str:
        text = statement if isinstance(statement, str) else statement.as_string()
        values = {**known, **more}
        return _PLACEHOLDER.sub(lambda m: values[m[1]] if m[1] else "%", text)

    def each(name: str, statements: Iterable[sql.Composed], own: Mapping[str, str]) -> list[str]:
        return [part(name, {"statement": s}, own) for s in statements]

    first, width, tables = len(COMMON) + 1, len(OF_A_TABLE), dict(tables)
    owns = [
        {
            "table": sql.Literal(plan.table.name).as_string(),
            "stage": Names(plan.table).stage.as_string(),
            "place": str(n + 1),
            "rows": f"${first + n * width}",
            "staged": f"cardinality(${first + n * width})",
            "writes": f"${first + n * width + 1}",
            "deletes": f"${first + n * width + 2}",
        }
        for n, plan in enumerate(plans)
    ]
    all_of = list(zip(plans, unique, owns, strict=True))
    lines = [part("begin", begin, {})]
    lines += [
        part(
            "stage_table",
            {"remember": plan.remember, "lock_rows": plan.lock_rows, "decide": plan.decide},
            own,
        )
        for plan, _, own in all_of
    ]
    # As `apply_steps` has it: without locks, then the parents are locked, then once more.
    checks = [
        line
        for plan, kept_out, own in all_of
        for statements in (
            plan.park_orphans(tables),
            plan.park_moved(tables),
            kept_out.blocked,
            kept_out.rivals,
        )
        for line in each("expect_none", statements, own)
    ]
    locks = [line for plan, _, own in all_of for line in each("lock", plan.lock_parents, own)]
    lines += [*checks, *locks, *(checks if locks else ())]
    for plan, room, own in all_of:
        ways = [*room.make_way, *([plan.make_way] if plan.make_way is not None else [])]
        make_way = "".join(f"{plain(way, own)};\n" for way in ways)
        statements = {
            "record_conflicts": plan.record_conflicts,
            "upsert": plan.upsert(),
            "sweep_resurrected": plan.sweep_resurrected,
        }
        lines.append(part("write_table", statements, {**own, "make_way": make_way}))
    for plan, _, own in all_of:
        if children := each("expect_none", plan.park_referenced(tables), own):
            lines.append(part("expect_no_children", {}, {**own, "statements": "\n".join(children)}))
    for plan, _, own in reversed(all_of):
        lines.append(
            part("delete_table", {"bury": plan.bury, "delete_rows": plan.delete_rows}, own)
        )
    for plan, _, own in all_of:
        ending = {"count_verdicts": plan.count_verdicts, "clear_stage": plan.clear_stage}
        lines.append(part("finish_table", ending, own))
    lines.append(part("end", {"count_applied": TEMPLATES["count_applied"]}, {}))
    return "\n".join(lines)


def _fill(template: str, texts: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: texts[m[1]], template)
