"""The apply statements of one table: the templates of ``sql/queries/apply.sql`` filled in.

Names of tables and columns enter only as quoted identifiers, names inside JSON only as literals.
Columns have names of their own in the stage (``c1``, ``c2``, …), so that a user's column may be
called anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Final, LiteralString

from psycopg import sql

from replication_pipeline.postgres import queries
from replication_pipeline.postgres.catalog import ForeignKey, Table
from replication_pipeline.postgres.fragments import (
    Names,
    child_matches,
    comma,
    conjunction,
    identifier,
    key_from_json,
    literal,
    texts,
    texts_of,
    type_of,
)
from replication_pipeline.postgres.staging import Reader

TEMPLATES: Final = queries.load("apply")
MERGE_TEMPLATES: Final = queries.load("merge")

# Columns of the stage of a table that merges: what is known here, what comes out, the entry as it was
# seen; and of each event its state, what it replaced, and its operation.
_MERGING: Final[tuple[LiteralString, ...]] = (
    "known jsonb", "folded jsonb", "seen jsonb", "doc jsonb", "bases jsonb", "told_op text",
)  # fmt: skip


def rewriting(table: Table, name: str) -> LiteralString:
    """A statement that looks at rows which are older than their event. Where columns merge, the row may
    have the version already and change all the same.
    """
    text = TEMPLATES[name]
    return text.replace("< s.version", "<= s.version") if table.merges else text


@dataclass(frozen=True, slots=True)
class TablePlan:
    """Composed statements; ``upsert`` depends on the columns that the events have."""

    table: Table
    reader: Reader
    create_stage: sql.Composed
    stage: sql.Composed
    clear_stage: sql.Composed
    truncate_stage: sql.Composed
    remember: sql.Composed
    remember_new: sql.Composed
    reduce: sql.Composed
    lock_rows: sql.Composed
    decide: sql.Composed
    column_sets: sql.Composed
    record_conflicts: sql.Composed
    sweep_resurrected: sql.Composed
    bury: sql.Composed
    delete_rows: sql.Composed
    make_way: sql.Composed | None
    parked_seqs: sql.Composed
    park_staged: sql.Composed
    count_verdicts: sql.Composed
    settle: sql.Composed
    lock_parents: tuple[sql.Composed, ...]
    insert_new: sql.Composed
    upsert_whole: sql.Composed | None = None

    def upsert(self, missing: Iterable[str] = ()) -> sql.Composed:
        """Insert or update all columns but the ``missing`` ones."""
        if not missing and self.upsert_whole is not None:
            return self.upsert_whole
        left_out = set(missing)
        names = Names(self.table)
        columns = [c for c in self.table.columns if c.name not in left_out]
        templates = MERGE_TEMPLATES if self.table.merges else TEMPLATES
        return sql.SQL(templates["upsert"]).format(
            table=names.table,
            stage=names.stage,
            same_key=names.same_key(),
            columns=comma(identifier(c.name) for c in columns),
            staged_columns=comma(names.staged(c.name) for c in columns),
            staged_keys=comma(names.staged(k) for k in self.table.keys),
            keys=comma(identifier(k) for k in self.table.keys),
            assignments=sql.SQL("").join(
                sql.SQL("{0} = excluded.{0}, ").format(identifier(c.name))
                for c in columns
                if c.name not in self.table.keys and not c.identity_always
            ),
        )

    def park_orphans(self, staged: dict[int, Table]) -> list[sql.Composed]:
        """One statement a foreign key; ``staged`` are the tables of the batch, by OID."""
        return [self._park_orphans(key, staged.get(key.parent)) for key in self.table.references]

    def park_referenced(self, staged: dict[int, Table]) -> list[sql.Composed]:
        """One statement a foreign key that points here; ``staged`` as in ``park_orphans``."""
        names = Names(self.table)
        return [
            sql.SQL(TEMPLATES["park_referenced"]).format(
                table=names.table,
                stage=names.stage,
                same_key=names.same_key(),
                constraint_name=literal(key.name),
                child=identifier(*key.child_name),
                child_matches=child_matches(key),
                and_not_leaving=_and_not_leaving(staged.get(key.child)),
            )
            for key in self.table.referenced_by
        ]

    def park_moved(self, staged: dict[int, Table]) -> list[sql.Composed]:
        """One statement a foreign key that points at other columns than the primary key's."""
        names = Names(self.table)
        return [
            sql.SQL(rewriting(self.table, "park_moved")).format(
                table=names.table,
                stage=names.stage,
                same_key=names.same_key(),
                constraint_name=literal(key.name),
                old_values=comma(identifier("t", c) for c in key.parent_columns),
                new_values=comma(names.staged(c) for c in key.parent_columns),
                child=identifier(*key.child_name),
                child_matches=child_matches(key),
                and_not_leaving=_and_not_leaving(staged.get(key.child), key),
            )
            for key in self.table.referenced_by
            if not set(key.parent_columns) <= set(self.table.keys)
        ]

    def _park_orphans(self, key: ForeignKey, parent: Table | None) -> sql.Composed:
        names = Names(self.table)
        or_staged: sql.Composable = sql.SQL("")
        if parent is not None:
            theirs = Names(parent, alias="p")
            or_staged = sql.SQL(
                "and not exists (select from {stage} p "
                "where p.verdict = 'apply' and p.op <> 'd' and {match})"
            ).format(
                stage=theirs.stage,
                match=conjunction(
                    sql.SQL("{} = {}").format(theirs.staged(parent_column), names.staged(child))
                    for child, parent_column in zip(
                        key.child_columns, key.parent_columns, strict=True
                    )
                ),
            )
        return sql.SQL(TEMPLATES["park_orphans"]).format(
            stage=names.stage,
            parent=identifier(*key.parent_name),
            constraint_name=literal(key.name),
            child_columns_set=conjunction(
                sql.SQL("{} is not null").format(names.staged(c)) for c in key.child_columns
            ),
            parent_matches=_parent_matches(names, key),
            or_staged_parent=or_staged,
        )


def plan(table: Table) -> TablePlan:
    """All statements of ``table``. They are put together here, once, and not at each execution."""
    found = _plan(table)
    found = replace(found, upsert_whole=found.upsert())
    whole: dict[str, Any] = {}
    for part in fields(found):
        match getattr(found, part.name):
            case sql.Composed() as statement:
                whole[part.name] = _put_together(statement)
            case tuple() as statements:
                whole[part.name] = tuple(map(_put_together, statements))
    return replace(found, **whole)


def _put_together(statement: sql.Composed) -> sql.Composed:
    # All its parts were quoted by psycopg.
    return sql.Composed([sql.SQL(statement.as_string())])


def _plan(table: Table) -> TablePlan:
    names = Names(table)
    template = {name: sql.SQL(text) for name, text in TEMPLATES.items()}
    columns = table.columns
    numbers = [c for c in columns if c.identity_always and c.name not in table.keys]
    common = {"table": names.table, "stage": names.stage, "same_key": names.same_key()}
    simple = {
        name: template[name].format(**common)
        for name in (
            "clear_stage", "truncate_stage", "remember", "remember_new", "reduce", "decide",
            "column_sets", "sweep_resurrected", "bury", "delete_rows", "parked_seqs", "park_staged",
            "count_verdicts",
        )
    }  # fmt: skip
    return TablePlan(
        table=table,
        reader=Reader.of(table),
        create_stage=template["create_stage"].format(
            stage=names.stage,
            stage_definitions=comma(
                [
                    *(
                        sql.SQL("{} {}").format(names.stage_column(c.name), type_of(c))
                        for c in columns
                    ),
                    *(sql.SQL(column) for column in _MERGING if table.merges),
                ]
            ),
        ),
        stage=template["stage"].format(
            stage=names.stage,
            columns=comma(names.stage_column(c.name) for c in columns),
        ),
        lock_rows=template["lock_rows"].format(
            **common, target_keys=comma(identifier("t", k) for k in table.keys)
        ),
        record_conflicts=template["record_conflicts"].format(
            **common,
            staged_image=_staged_image(names),
            target_image=texts_of(columns, lambda name: identifier("t", name)),
        ),
        make_way=sql.SQL(rewriting(table, "make_way")).format(
            **common,
            numbers_differ=sql.SQL(" or ").join(
                sql.SQL("{} <> {}").format(identifier("t", c.name), names.staged(c.name))
                for c in numbers
            ),
        )
        if numbers
        else None,
        settle=(sql.SQL(MERGE_TEMPLATES["settle"]) if table.merges else template["settle"]).format(
            table=names.table,
            and_not_referenced=_and_not_referenced(names, table),
            row_text=sql.SQL(table.row_text.replace("%", "%%")),
            keys=texts(table.keys),
            deltas=texts(table.deltas),
            **key_from_json(table),
        ),
        insert_new=template["insert_new"].format(
            **common,
            columns=comma(identifier(c.name) for c in columns),
            staged_columns=comma(names.staged(c.name) for c in columns),
            staged_keys=comma(names.staged(k) for k in table.keys),
        ),
        lock_parents=tuple(
            template["lock_parents"].format(
                stage=names.stage,
                parent=identifier(*key.parent_name),
                parent_matches=_parent_matches(names, key),
                parent_columns=comma(identifier("p", column) for column in key.parent_columns),
            )
            for key in table.references
        ),
        **simple,
    )


def _parent_matches(names: Names, key: ForeignKey) -> sql.Composed:
    return conjunction(
        sql.SQL("{} = {}").format(identifier("p", parent), names.staged(child))
        for child, parent in zip(key.child_columns, key.parent_columns, strict=True)
    )


def _and_not_referenced(names: Names, table: Table) -> sql.Composed:
    """A row that has children does not settle yet."""
    return sql.SQL(" ").join(
        sql.SQL(
            "and not exists (select from {table} t join {child} c on {child_matches}, "
            "jsonb_to_record(coalesce(b.long_key, b.record_key)::jsonb) as r({key_definitions}) "
            "where {ripe_key} and coalesce(t.replication_version, 0) <= b.version)"
        ).format(
            table=names.table,
            child=identifier(*key.child_name),
            child_matches=child_matches(key),
            **key_from_json(table),
        )
        for key in table.referenced_by
    )


def _staged_image(names: Names) -> sql.Composed:
    """The staged row as JSON of texts, without the columns that its event lacks."""
    return sql.SQL(
        "(select case when s.missing_columns is null then i.image "
        "else (i.image::jsonb - s.missing_columns)::json end "
        "from (select row_to_json(c.*) as image from (select {}) c) i)"
    ).format(texts_of(names.of.columns, names.staged))


def _and_not_leaving(table: Table | None, key: ForeignKey | None = None) -> sql.Composable:
    """Children that are deleted in the same batch don't hold their parent back; nor, where updates
    have not been made yet, do those that will reference another row by ``key``.
    """
    if table is None:
        return sql.SQL("")
    gone = Names(table, alias="g")
    or_moves: sql.Composable = sql.SQL("")
    if key is not None:
        or_moves = sql.SQL("or ({}) is distinct from ({})").format(
            comma(gone.staged(c) for c in key.child_columns),
            comma(identifier("c", c) for c in key.child_columns),
        )
    return sql.SQL(
        "and not exists (select from {stage} g "
        "where g.verdict = 'apply' and (g.op = 'd' {or_moves}) and {match})"
    ).format(
        stage=gone.stage,
        or_moves=or_moves,
        match=conjunction(
            sql.SQL("{} = {}").format(identifier("c", k), gone.staged(k)) for k in table.keys
        ),
    )
