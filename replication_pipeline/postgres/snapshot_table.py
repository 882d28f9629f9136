"""The statements of a snapshot of one table: the templates of ``sql/queries/snapshot.sql`` filled in.

Keys travel as texts of their columns and are compared as rows, after a cast to the columns' types: any
type, and any number of columns, in the order of the primary key's own index. The table stands under its
own name, so that a filter may use that; all other names begin with two underscores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import sql

from replication_pipeline.postgres import queries
from replication_pipeline.postgres.catalog import Column, Table
from replication_pipeline.postgres.fragments import (
    Names,
    comma,
    conjunction,
    identifier,
    key_from_json,
    type_of,
)

TEMPLATES: Final = queries.load("snapshot")
Key = Sequence[str]


@dataclass(frozen=True, slots=True)
class SnapshotTable:
    """Statements for ``table``, of the rows for which ``where`` holds."""

    table: Table
    where: str | None

    def statement(
        self, name: str, *, after: Key | None = None, ends: Key | None = None
    ) -> sql.Composed:
        """A template, over the keys behind ``after`` up to ``ends``."""
        keys = self._keys
        refs = [self._of_row(key) for key in keys]
        sampled = [sql.SQL("__k.") + sql.Identifier(f"__k{n}") for n in range(len(keys))]
        return sql.SQL(TEMPLATES[name]).format(
            table=Names(self.table).table,
            alias=identifier(self.table.relation_name),
            keys=comma(refs),
            key_texts=comma(map(_text, refs)),
            keys_as=comma(
                sql.SQL("{} as {}").format(r, sql.Identifier(f"__k{n}")) for n, r in enumerate(refs)
            ),
            sampled=comma(sampled),
            sampled_texts=comma(map(_text, sampled)),
            same_key=conjunction(
                sql.SQL("__l.{} = {}").format(sql.Identifier(f"__k{n}"), r)
                for n, r in enumerate(refs)
            ),
            due_keys=comma(
                sql.SQL("(__d.record_key)[{}]::{}").format(sql.Literal(n), type_of(key))
                for n, key in enumerate(keys, 1)
            ),
            range=self._range(after, ends),
            filter=self._filter(),
            **key_from_json(self.table),
        )

    @staticmethod
    def parameters(after: Key | None, ends: Key | None) -> dict[str, Any]:
        """What the range in a statement stands for."""
        return {f"after_{n}": text for n, text in enumerate(after or ())} | {
            f"ends_{n}": text for n, text in enumerate(ends or ())
        }

    @property
    def _keys(self) -> list[Column]:
        by_name = {column.name: column for column in self.table.columns}
        return [by_name[name] for name in self.table.keys]

    def _of_row(self, column: Column) -> sql.Identifier:
        return identifier(self.table.relation_name, column.name)

    def _range(self, after: Key | None, ends: Key | None) -> sql.Composed:
        row = comma(self._of_row(key) for key in self._keys)
        bounds = [
            sql.SQL("({}) {} ({})").format(
                row,
                sql.SQL(comparison),
                comma(
                    sql.SQL("{}::{}").format(sql.Placeholder(f"{name}_{n}"), type_of(key))
                    for n, key in enumerate(self._keys)
                ),
            )
            for name, comparison, bound in (("after", ">", after), ("ends", "<=", ends))
            if bound is not None
        ]
        return conjunction(bounds or [sql.SQL("true")])

    def _filter(self) -> sql.SQL:
        """An operator's words, run with that role's own rights. A comment ends with its line."""
        if self.where is None:
            return sql.SQL("true")
        doubled = self.where.replace("%", "%%")
        return sql.SQL(f"(\n{doubled}\n)")


def _text(reference: sql.Composable) -> sql.Composed:
    # By the output function, not by a cast, which may be a user's own.
    return sql.SQL("format('%%s', {})").format(reference)
