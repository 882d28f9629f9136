"""The statements of one table that merges columns: the templates of ``sql/queries/merge.sql``.

What merging is stands in ``sql/schema/35_merge_states.sql``; which statement follows which, in
``apply_steps``. Tables that don't merge have no such plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from psycopg import sql

from replication_pipeline.postgres.apply_plan import MERGE_TEMPLATES
from replication_pipeline.postgres.catalog import Table
from replication_pipeline.postgres.fragments import (
    Names,
    comma,
    decoded,
    identifier,
    texts,
    texts_of,
    wire_definition,
)


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Composed statements."""

    fold: sql.Composed
    record_conflicts: sql.Composed
    to_write: sql.Composed
    keep_states: sql.Composed
    park_folded: sql.Composed
    count_folded: sql.Composed


@lru_cache(maxsize=256)
def merge_plan(table: Table) -> MergePlan | None:
    """``None`` for a table whose rows are decided about as a whole."""
    if not table.merges:
        return None
    names = Names(table)
    columns = table.columns
    by_name = {column.name: column for column in columns}
    common = {
        "table": names.table,
        "stage": names.stage,
        "same_key": names.same_key(),
        "keys": texts(table.keys),
        "deltas": texts(table.deltas),
        "wire_definitions": comma(wire_definition(c) for c in columns),
    }
    return MergePlan(
        fold=sql.SQL(MERGE_TEMPLATES["fold"]).format(
            **common,
            sorted_deltas=texts(sorted(table.deltas)),
            column_names=texts(c.name for c in columns),
            row_is_there=sql.SQL("{} is not null").format(identifier("t", table.keys[0])),
            # Made by the server from its own catalog, like the names of types.
            row_text=sql.SQL(table.row_text.replace("%", "%%")),
            assignments=sql.SQL("").join(
                sql.SQL(", {} = case when j.lives then {} else {} end").format(
                    names.stage_column(c.name), decoded(c), names.staged(c.name)
                )
                for c in columns
            ),
        ),
        record_conflicts=sql.SQL(MERGE_TEMPLATES["record_conflicts"]).format(
            **common,
            image=sql.SQL("(select to_jsonb(i.*) from (select {}) i)").format(
                texts_of(columns, lambda name: decoded(by_name[name]))
            ),
        ),
        to_write=sql.SQL(MERGE_TEMPLATES["to_write"]).format(**common),
        keep_states=sql.SQL(MERGE_TEMPLATES["keep_states"]).format(**common),
        park_folded=sql.SQL(MERGE_TEMPLATES["park_folded"]).format(**common),
        count_folded=sql.SQL(MERGE_TEMPLATES["count_folded"]).format(**common),
    )
