"""Secondary unique indexes: which of two rows with the same value lives.

An index that PostgreSQL checks by columns alone is looked at before anything is written: an event
whose value another row has is parked with that row named, so that one collision does not fail a batch.
By default whichever came first stays. With ``displace`` the newer version lives: an older row in its
way leaves the table, waits among the parked events, and is tried again like them; and a row whose newer
image is kept out does not live on with its old one. What lives is then
a function of the versions, whatever the order of arrival; but a row with children never gives way.
The versions of rows that gave way are kept, for local inserts under their keys (``displaced_keys``).

Partial indexes, those of expressions, exclusion constraints, and nulls that are not distinct are left
to the database: the write fails, the batch is halved, and the event is parked with the constraint's
name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from replication_pipeline.postgres.apply_plan import rewriting
from replication_pipeline.postgres.catalog import ForeignKey, Table, UniqueKey
from replication_pipeline.postgres.fragments import (
    Names,
    child_matches,
    comma,
    conjunction,
    identifier,
    literal,
)

NOTHING = sql.SQL("")
FALSE = sql.SQL("false")


@dataclass(frozen=True, slots=True)
class UniquePlan:
    """``blocked`` by rows, then ``rivals`` within the batch: parked, each until nothing more is. In
    this order, as a rival that is blocked itself must keep nobody out: of those that wait together one
    goes on at each try. ``displace``, ``step_down`` and ``make_way``: before the upsert.
    """

    blocked: Sequence[sql.Composed]
    rivals: Sequence[sql.Composed]
    lock_displaced: Sequence[sql.Composed]
    displace: Sequence[sql.Composed]
    step_down: Sequence[sql.Composed]
    make_way: Sequence[sql.Composed]


def unique_plan(table: Table, staged: Mapping[int, Table]) -> UniquePlan:
    """The statements of all unique indexes of ``table``; ``staged`` are the batch's tables, by OID."""
    forms = [_forms(table, key, staged) for key in table.uniques]

    def filled(*names: str) -> list[sql.Composed]:
        return [sql.SQL(rewriting(table, name)).format(**form) for form in forms for name in names]

    return UniquePlan(
        blocked=filled("park_blocked"),
        rivals=filled("park_rivals"),
        lock_displaced=filled("lock_displaced") if table.displace else [],
        displace=filled("displace") if table.displace else [],
        step_down=filled("step_down")[:1] if table.displace else [],
        make_way=filled("leave_early", "change_hands"),
    )


def _forms(table: Table, key: UniqueKey, staged: Mapping[int, Table]) -> dict[str, sql.Composable]:
    s, g = Names(table), Names(table, alias="g")
    has_children = sql.SQL(" or ").join(
        form for child in table.referenced_by for form in _children(child, staged)
    )
    target = [identifier("t", column) for column in key.columns]
    mine = [s.staged(column) for column in key.columns]
    holds = conjunction(sql.SQL("{} = {}").format(*pair) for pair in zip(target, mine, strict=True))
    children = has_children if table.referenced_by else FALSE
    stays = sql.SQL("and (coalesce(t.replication_version, 0) > s.version or {})").format(children)
    detail = sql.SQL(
        " || case when coalesce(t.replication_version, 0) < s.version "
        "then ', whose older row has children and is not displaced' else '' end"
    )
    rank = (
        sql.SQL("coalesce({} and ({}), false) desc, s.version desc, s.record_key").format(
            holds, children
        )
        if table.displace
        else sql.SQL("coalesce({}, false) desc, s.seq").format(holds)
    )
    return {
        "table": s.table,
        "stage": s.stage,
        "table_name": literal(table.name),
        "schema": literal(table.schema),
        "relation_name": literal(table.relation_name),
        "unique_name": literal(key.name),
        # Made by the server from its own catalog, like the names of types.
        "key_text": sql.SQL(table.key_text.replace("%", "%%")),
        "row_text": sql.SQL(table.row_text.replace("%", "%%")),
        "same_key": s.same_key(),
        "same_key_of_g": g.same_key(),
        "same_values": holds,
        "values_set": conjunction(sql.SQL("{} is not null").format(value) for value in mine),
        "values_differ": sql.SQL(" or ").join(
            sql.SQL("{} is distinct from {}").format(*pair)
            for pair in zip(target, mine, strict=True)
        ),
        "target_keys": comma(identifier("t", k) for k in table.keys),
        "target_values": comma(target),
        "staged_values": comma(mine),
        "staged_values_of_g": comma(g.staged(column) for column in key.columns),
        "has_children": children,
        "and_stays": stays if table.displace else NOTHING,
        "or_children_detail": detail if table.displace and table.referenced_by else NOTHING,
        "rank": rank,
    }


def _children(key: ForeignKey, staged: Mapping[int, Table]) -> list[sql.Composed]:
    """Whether ``t`` has children, or is about to get some in this batch."""
    found = [
        sql.SQL("exists (select from {} c where {})").format(
            identifier(*key.child_name), child_matches(key)
        )
    ]
    if child := staged.get(key.child):
        theirs = Names(child, alias="c")
        found.append(
            sql.SQL(
                "exists (select from {} c where c.verdict = 'apply' and c.op <> 'd' and {})"
            ).format(
                theirs.stage,
                conjunction(
                    sql.SQL("{} = {}").format(theirs.staged(column), identifier("t", parent))
                    for column, parent in zip(key.child_columns, key.parent_columns, strict=True)
                ),
            )
        )
    return found
