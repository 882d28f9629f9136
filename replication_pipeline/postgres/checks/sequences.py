"""Sequences that fill keys: whether two contours would give one value to two rows.

The remedy makes each contour count in steps, from a number of its own. It may be run while everybody
writes; a contour is safe from those that have done it as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import psycopg
from psycopg import sql

from replication_pipeline.domain.findings import Finding, NotSeenError, mend, notice
from replication_pipeline.domain.sequences import (
    KeySequence,
    apart,
    collide,
    moved,
    step_for,
)
from replication_pipeline.postgres.checks.patient import SQL, Patient, PatientCheck, ask
from replication_pipeline.postgres.heartbeats import read_registry

Place = tuple[str, str]  # table, column


def _sequences(patient: Patient) -> Iterator[Finding]:
    me = patient.settings.contour
    mine = _read(patient.connection, patient, me.name, me.id)
    reached = patient.reached()
    theirs: dict[str, dict[Place, KeySequence]] = {}
    ids = {c.identity.id for c in read_registry(patient.connection).contours.values()} | {me.id}
    for name, connection in reached.items():
        for there, id_, *_ in ask(connection, "who"):
            theirs[name] = _read(connection, patient, there, id_)
            ids.add(id_)
    step = step_for(ids)
    for place, sequence in mine.items():
        rivals = [
            found[place]
            for found in theirs.values()
            if place in found and collide(sequence, found[place])
        ]
        if rivals:
            yield _finding(sequence, rivals, step)
        elif not apart(sequence, step) and len(ids) > 1 + len(theirs):
            statement, runs = _statement(sequence, step, [])
            yield notice(
                f"{sequence.table}.{sequence.column} is filled from {sequence.name} in steps of "
                f"{sequence.increment}: if a contour that can't be looked at fills it as well, "
                "both may give one value to two rows",
                statement,
                fixable=runs,
            )


def _finding(sequence: KeySequence, rivals: list[KeySequence], step: int) -> Finding:
    contours = [sequence.contour, *(rival.contour for rival in rivals)]
    both = f"contours {' and '.join(contours)}"
    text = (
        f"{sequence.table}.{sequence.column}: the sequences of {both} give the same values: of "
        "two rows with one key the newer one replaces the other"
    )
    late = [rival.contour for rival in rivals if not apart(rival, step)]
    elsewhere = "; ".join(
        f"in {name}: replication-pipeline doctor --fix sequences" for name in late
    )
    if apart(sequence, step):
        return mend(text, elsewhere)
    statement, runs = _statement(sequence, step, rivals)
    remedy = f"{statement} -- and {elsewhere}" if elsewhere else statement
    if sum(one.used for one in (sequence, *rivals)) > 1:
        return mend(text, remedy, fixable=runs)
    return notice(text.replace(" give ", " would give "), remedy, fixable=runs)


def _statement(sequence: KeySequence, step: int, rivals: list[KeySequence]) -> tuple[str, bool]:
    """The remedy, and whether it can be run as it is."""
    highest = max((rival.last or rival.highest for rival in rivals), default=0)
    first = moved(sequence, step, max(highest, *(rival.highest for rival in rivals), 0))
    if first > sequence.maximum:
        return f"widen {sequence.table}.{sequence.column} to bigint in every contour first", False
    return (
        f"alter sequence {sequence.name} increment by {step} minvalue 1 start with {first} "
        f"restart with {first};"
    ), True


def _read(
    connection: psycopg.Connection[Any], patient: Patient, contour: str, contour_id: int
) -> dict[Place, KeySequence]:
    found = {}
    for row in ask(connection, "sequences", tables=list(patient.settings.tables)):
        table, column, *facts, schema, relation = row
        sequence = KeySequence(contour, contour_id, table, column, *facts)
        query = sql.SQL(SQL["highest"]).format(
            column=sql.Identifier(column), table=sql.Identifier(schema, relation)
        )
        try:
            ((highest,),) = connection.execute(query).fetchall()
        except psycopg.errors.InsufficientPrivilege as error:
            raise NotSeenError(error.diag.message_primary or "permission denied") from None
        found[table, column] = replace(sequence, highest=highest)
    return found


CHECKS: Final = (
    PatientCheck("sequences", "contours", _sequences, "no two contours give one value to two rows"),
)
