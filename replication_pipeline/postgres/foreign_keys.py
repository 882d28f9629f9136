"""Foreign key policies: a row was deleted elsewhere, and has children here.

First the delete waits, parked as ``referenced``: the children's own deletes may be on their way, until
the rounds of the contour that deleted the row tell that all it committed with it was read here. What is
left after that was written by somebody who had not seen the delete, and one policy for each foreign
key decides, the same in every contour and by default the constraint's own ON DELETE action:

* ``delete_children`` (CASCADE) and ``set_null`` (SET NULL) change the children here, as this contour's
  own captured writes, so that they travel; then the delete goes through.
* ``restore_parent`` (NO ACTION, RESTRICT) renews the row above the delete's version, so that it comes
  back everywhere. So it does where the children refuse the other two.
* ``park`` (SET DEFAULT, or by configuration) leaves the delete waiting for an operator.

Every contour that has children decides; their writes have versions, and the newest wins. The caller
holds the transaction; the session is an applier's, and is one again at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, assert_never

import psycopg
from psycopg import sql

from replication_pipeline.domain.errors import PoisonError
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.catalog import ForeignKey, Table
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.fragments import (
    child_matches,
    comma,
    conjunction,
    identifier,
    key_from_json,
)
from replication_pipeline.settings import ForeignKeyPolicy

SQL: Final = queries.load("foreign_keys")

# PostgreSQL's letter of the ON DELETE action.
POLICY_OF_ACTION: Final[Mapping[str, ForeignKeyPolicy]] = {
    "c": "delete_children",
    "n": "set_null",
    "a": "restore_parent",
    "r": "restore_parent",
    "d": "park",
}

Outcome = Literal["free", "restored", "waits"]


@dataclass(frozen=True, slots=True)
class BlockedDelete:
    """A delete of ``key`` (canonical JSON) with ``version`` that children have held up."""

    table: Table
    key: str
    version: int


@dataclass(frozen=True, slots=True)
class ForeignKeyPolicies:
    """Decides blocked deletes. ``configured`` are policies by the child's OID and the constraint."""

    connection: psycopg.Connection
    configured: Mapping[tuple[int, str], ForeignKeyPolicy]

    def decide(self, blocked: BlockedDelete) -> Outcome:
        """``free``: nothing is in the delete's way any more. ``restored``: the row has won over it.
        ``waits``: a policy says so.
        """
        row = self._of(blocked, "lock_parent").fetchone()
        if row is None or (row[2] or 0) > blocked.version:
            return "free"
        leaf, place, _ = row
        holding = [k for k in blocked.table.referenced_by if self._has_children(blocked, k)]
        policies = {self.policy(key) for key in holding}
        if "park" in policies:
            return "waits"
        if "restore_parent" not in policies and self._give_way(blocked, holding):
            return "free"
        self.connection.execute(
            SQL["restore_parent"],
            {
                "table_id": blocked.table.table_id,
                "leaf": leaf,
                "place": place,
                "above": blocked.version,
            },
        )
        return "restored"

    def policy(self, key: ForeignKey) -> ForeignKeyPolicy:
        """What is configured for the constraint, else its own action."""
        return self.configured.get((key.child, key.name)) or POLICY_OF_ACTION[key.on_delete]

    def _give_way(self, blocked: BlockedDelete, holding: list[ForeignKey]) -> bool:
        """Change the children; false, and nothing changed, where a constraint of theirs forbids it."""
        try:
            with self.connection.transaction(), translating("changing children of a deleted row"):
                self.connection.execute(SQL["as_writer"])
                for key in holding:
                    policy = self.policy(key)
                    match policy:
                        case "delete_children" | "set_null":
                            self._of(blocked, policy, key)
                        case "restore_parent" | "park":
                            raise AssertionError(policy)
                        case _:
                            assert_never(policy)
                self.connection.execute(SQL["check_now"])
                self.connection.execute(SQL["check_later"])
                self.connection.execute(SQL["as_applier"])
        except PoisonError:
            return False
        return not any(self._has_children(blocked, key) for key in holding)

    def _has_children(self, blocked: BlockedDelete, key: ForeignKey) -> bool:
        row = self._of(blocked, "has_children", key).fetchone()
        return bool(row and row[0])

    def _of(
        self, blocked: BlockedDelete, name: str, key: ForeignKey | None = None
    ) -> psycopg.Cursor[Any]:
        statement = _composed(name, blocked.table, key)
        return self.connection.execute(statement, {"key": blocked.key})


def _composed(name: str, table: Table, key: ForeignKey | None) -> sql.Composed:
    key_parts = key_from_json(table)
    parts: dict[str, sql.Composable] = {
        "table": identifier(table.schema, table.relation_name),
        **key_parts,
    }
    if key is not None:
        parts |= {
            "child": identifier(*key.child_name),
            "parent_row": sql.SQL(
                "{table} t, jsonb_to_record(%(key)s::jsonb) as r({key_definitions})"
            ).format(**parts),
            "child_of_it": conjunction(
                [key_parts["ripe_key"], child_matches(key), *_other_row(table, key)]
            ),
            "nulls": comma(
                sql.SQL("{} = null").format(identifier(column)) for column in key.null_columns
            ),
        }
    return sql.SQL(SQL[name]).format(**parts)


def _other_row(table: Table, key: ForeignKey) -> list[sql.Composed]:
    """A row that references itself is no child of its own."""
    if key.child != table.relation:
        return []
    same = conjunction(
        sql.SQL("{} = {}").format(identifier("c", k), identifier("t", k)) for k in table.keys
    )
    return [sql.SQL("not ({})").format(same)]
