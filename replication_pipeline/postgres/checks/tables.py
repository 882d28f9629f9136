"""What of a table can't be kept equal, or only with care: its keys, unique indexes, foreign keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from replication_pipeline.domain.findings import Finding, mend, notice
from replication_pipeline.postgres.checks.patient import Patient, PatientCheck


def _keys(patient: Patient) -> Iterator[Finding]:
    for (table,) in patient.ask("keyless"):
        yield mend(
            f"{table} has lost its primary key: its rows can't be told apart",
            f"alter table {table} add primary key (…);",
        )


def _deferrable(patient: Patient) -> Iterator[Finding]:
    for table, constraint, definition in patient.ask("deferrable"):
        yield mend(
            f"{constraint} of {table} is deferrable, and not checked while remote changes are "
            "applied",
            f"alter table {table} drop constraint {constraint}, "
            f"add constraint {constraint} {definition};",
        )


def _unique(patient: Patient) -> Iterator[Finding]:
    for table, literal, indexes in patient.ask("secondary_unique"):
        yield notice(
            f"{table} has {indexes} beside its key: of two contours that give one value to two "
            "rows, one's row waits, parked",
            "leave it so, or let the newer row live: select "
            f"replication.setup_table_for_replication({literal}, displace => true); in every "
            "contour",
        )


def _foreign_keys(patient: Patient) -> Iterator[Finding]:
    for table, constraint, parent in patient.ask("foreign_parents"):
        yield notice(
            f"{constraint} of {table} references {parent}, which is not replicated: a row waits, "
            "parked, until its parent is written here",
            f"replication-pipeline setup-table {parent}, in every contour",
        )
    for table, constraint, child in patient.ask("foreign_children"):
        yield notice(
            f"{constraint} of {child}, which is not replicated, references {table}: a row deleted "
            "elsewhere stays here as long as it has children",
            f"replication-pipeline setup-table {child}, in every contour",
        )


CHECKS: Final = (
    PatientCheck("keys", "tables", _keys, "every table has a primary key"),
    PatientCheck(
        "constraints", "tables", _deferrable, "no unique or exclusion constraint is deferrable"
    ),
    PatientCheck(
        "unique indexes",
        "tables",
        _unique,
        "no value but the key's may stand only once, or displace",
    ),
    PatientCheck("foreign keys", "tables", _foreign_keys, "parents and children are replicated"),
)
