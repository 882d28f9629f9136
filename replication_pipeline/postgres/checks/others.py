"""This contour beside those that ``compare.contours`` reaches: who they are, how tables are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from replication_pipeline.domain.drift import SetUp, drift
from replication_pipeline.domain.errors import ReplicationError
from replication_pipeline.domain.findings import Finding, fine, mend, notice
from replication_pipeline.postgres.checks.patient import Patient, PatientCheck, ask
from replication_pipeline.postgres.heartbeats import read_registry

PROVIDERS: Final = {"c": "libc", "i": "ICU", "b": "built in"}


def _reached(patient: Patient) -> Iterator[Finding]:
    for name, other in patient.others.items():
        if isinstance(other, ReplicationError):
            yield notice(
                f"contour {name} can't be looked at: {other.message}",
                f"check compare.contours.{name}" + (f"; {other.remedy}" if other.remedy else ""),
            )
    me = patient.settings.contour.name
    unnamed = [
        name
        for name, contour in sorted(read_registry(patient.connection).contours.items())
        if contour.state == "active" and name not in (me, *patient.others)
    ]
    if unnamed:
        yield notice(
            f"contours {', '.join(unnamed)} can't be looked at: nothing says how to reach their "
            "databases",
            "name them under compare.contours",
        )
    if not patient.others and not unnamed:
        yield fine("no other contour is known")


def _clash(patient: Patient) -> Iterator[Finding]:
    me = patient.settings.contour
    ((_, _, incarnation, _),) = patient.ask("who")
    seen = {me.id: me.name}
    for name, connection in patient.reached().items():
        rows = ask(connection, "who")
        if not rows:
            yield mend(
                f"the database of contour {name} has no contour yet",
                f"in {name}: replication-pipeline init",
            )
            continue
        ((there, id_, other, _),) = rows
        if other == incarnation:
            yield mend(
                f"the databases of {me.name} and {name} are copies of one another",
                "docs/recovery.md; a copy needs a name, an id and an incarnation of its own",
            )
        elif there != name:
            yield mend(
                f"compare.contours.{name} is the database of contour {there}",
                "give each contour's own database its name there",
            )
        elif id_ in seen:
            yield mend(
                f"contours {seen[id_]} and {name} share the id {id_}: equal versions may mean two "
                "writes",
                "install one of them anew with an id of its own",
            )
        seen.setdefault(id_, name)


def _databases(patient: Patient) -> Iterator[Finding]:
    (here,) = patient.ask("database")
    for name, connection in patient.reached().items():
        (there,) = ask(connection, "database")
        if there[0] != here[0]:
            yield mend(
                f"the encoding is {here[0]} here and {there[0]} in {name}",
                f"load {name} into a database with encoding UTF8",
            )
        if there[1:] != here[1:]:
            yield notice(
                f"text sorts as {_collation(here)} here and as {_collation(there)} in {name}: "
                "values are equal, lists may come in another order",
                f"create the database of {name} anew with the same locale, if order matters",
            )


def _collation(database: tuple[str, str, str, str | None]) -> str:
    _, provider, collate, locale = database
    return f"{locale or collate} ({PROVIDERS.get(provider, provider)})"


def _drift(patient: Patient) -> Iterator[Finding]:
    here = _set_ups(patient.ask("set_ups"))
    me = patient.settings.contour.name
    for name, connection in patient.reached().items():
        there = _set_ups(ask(connection, "set_ups", tables=list(patient.settings.tables)))
        for table in here:
            if table not in there:
                yield mend(
                    f"table {table} is not set up in {name}",
                    f"in {name}: replication-pipeline setup-table {table}",
                )
                continue
            yield from drift(table, (me, here[table]), (name, there[table]))


def _set_ups(rows: list[tuple[object, ...]]) -> dict[str, SetUp]:
    return {
        str(table): SetUp.of(
            relation, keys, displace=displace, merge=merge, deltas=deltas, columns=columns
        )
        for table, relation, keys, displace, merge, deltas, columns in rows
    }


CHECKS: Final = (
    PatientCheck("reach", "contours", _reached, "all contours could be looked at"),
    PatientCheck(
        "names and ids", "contours", _clash, "every contour has a name and an id of its own"
    ),
    PatientCheck("databases", "contours", _databases, "encoding and sorting are the same"),
    PatientCheck("drift", "contours", _drift, "tables have the same columns and options"),
)
