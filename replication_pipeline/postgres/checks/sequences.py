"""Sequences that fill keys: whether two contours would give one value to two rows.

The remedy makes each contour count in steps, from a number of its own. It may be run while everybody
writes; a contour is safe from those that have done it as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from replication_pipeline.domain.findings import Finding, mend, notice
from replication_pipeline.domain.sequences import (
    KeySequence,
    apart,
    collide,
    moved,
    step_for,
)
from replication_pipeline.postgres.checks.patient import SQL, Patient, PatientCheck, ask, unseen
from replication_pipeline.postgres.heartbeats import read_registry

Place = tuple[str, str]  # table, column


@dataclass(frozen=True, slots=True)
class _Filled:
    """A column that a sequence fills, in one contour. Its greatest value is looked up when it matters:
    a column that no index begins with is read whole for it.
    """

    sequence: KeySequence
    connection: psycopg.Connection[Any]
    table: sql.Identifier

    def highest(self) -> int:
        query = sql.SQL(SQL["highest"]).format(
            column=sql.Identifier(self.sequence.column), table=self.table
        )
        with unseen():
            ((highest,),) = self.connection.execute(query).fetchall()
        return int(highest)


def _sequences(patient: Patient) -> Iterator[Finding]:
    me = patient.settings.contour
    mine = _read(patient.connection, patient, me.name, me.id)
    theirs: list[dict[Place, _Filled]] = []
    ids = {c.identity.id for c in read_registry(patient.connection).contours.values()} | {me.id}
    for connection in patient.reached().values():
        for name, id_, *_ in ask(connection, "who"):
            theirs.append(_read(connection, patient, name, id_))
            ids.add(id_)
    step = step_for(ids)
    for place, filled in mine.items():
        sequence = filled.sequence
        same = [found[place] for found in theirs if place in found]
        rivals = [other for other in same if collide(sequence, other.sequence)]
        if rivals:
            yield _finding(filled, rivals, step)
        elif not apart(sequence, step) and len(ids) > 1 + len(theirs):
            statement, runs = _statement(filled, step, same)
            yield notice(
                f"{sequence.table}.{sequence.column} is filled from {sequence.name} in steps of "
                f"{sequence.increment}: if a contour that can't be looked at fills it as well, "
                "both may give one value to two rows",
                statement,
                fixable=runs,
            )


def _finding(filled: _Filled, rivals: list[_Filled], step: int) -> Finding:
    sequence, others = filled.sequence, [rival.sequence for rival in rivals]
    contours = " and ".join(one.contour for one in (sequence, *others))
    used = sum(one.used for one in (sequence, *others)) > 1
    text = (
        f"{sequence.table}.{sequence.column}: the sequences of contours {contours} "
        f"{'give' if used else 'would give'} the same values: of two rows with one key the newer "
        "one replaces the other"
    )
    late = [other.contour for other in others if not apart(other, step)]
    elsewhere = "; ".join(
        f"in {name}: replication-pipeline doctor --fix sequences" for name in late
    )
    if apart(sequence, step):
        return mend(text, elsewhere)
    statement, runs = _statement(filled, step, rivals)
    remedy = f"{statement} -- and {elsewhere}" if elsewhere else statement
    return (mend if used else notice)(text, remedy, fixable=runs)


def _statement(filled: _Filled, step: int, others: list[_Filled]) -> tuple[str, bool]:
    """The remedy, and whether it can be run as it is."""
    sequence = filled.sequence
    highest = max(max(one.highest(), one.sequence.last or 0) for one in (filled, *others))
    first = moved(sequence, step, highest)
    if first > sequence.maximum:
        return f"widen {sequence.table}.{sequence.column} to bigint in every contour first", False
    return (
        f"alter sequence {sequence.name} increment by {step} minvalue 1 start with {first} "
        f"restart with {first};"
    ), True


def _read(
    connection: psycopg.Connection[Any], patient: Patient, contour: str, contour_id: int
) -> dict[Place, _Filled]:
    found = {}
    for row in ask(connection, "sequences", tables=list(patient.settings.tables)):
        table, column, *facts, schema, relation = row
        sequence = KeySequence(contour, contour_id, table, column, *facts)
        found[table, column] = _Filled(sequence, connection, sql.Identifier(schema, relation))
    return found


CHECKS: Final = (
    PatientCheck("sequences", "contours", _sequences, "no two contours give one value to two rows"),
)
