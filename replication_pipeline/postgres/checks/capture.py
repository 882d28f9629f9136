"""Capture: which tables, whether their triggers are there and on, and follow changes of columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from replication_pipeline.domain.findings import Finding, mend, notice
from replication_pipeline.postgres.checks.patient import Patient, PatientCheck


def _tables(patient: Patient) -> Iterator[Finding]:
    for (table,) in patient.ask("not_set_up"):
        yield mend(
            f"table {table} is configured, but not set up here",
            f"replication-pipeline setup-table {table}",
        )
    for (table,) in patient.ask("not_configured"):
        yield mend(
            f"table {table} is set up here, but not configured: what other contours write to it is "
            "not applied",
            f"name it under tables:, or replication-pipeline remove-table {table}",
        )
    for table, now in patient.ask("renamed"):
        yield notice(
            f"table {now} is {table} in events, topics and the configuration: it was renamed after "
            "it was set up",
            "nothing is to be done: keep the former name under tables: (docs/schema-changes.md)",
        )


def _triggers(patient: Patient) -> Iterator[Finding]:
    for table, part, triggers in patient.ask("missing_triggers"):
        yield mend(
            f"{part} lacks {triggers}: its writes are not captured",
            f"select replication.setup_table_for_replication({table});",
            fixable=True,
        )
    for table, trigger in patient.ask("disabled_triggers"):
        yield mend(
            f"{trigger} of {table} is not in its usual mode: writes are lost, or loop",
            f"alter table {table} enable trigger {trigger};",
            fixable=True,
        )
    for table, trigger in patient.ask("loud_triggers"):
        yield notice(
            f"trigger {trigger} of {table} fires for applied rows as well, and may change them",
            f"alter table {table} enable trigger {trigger};",
        )


def _version(patient: Patient) -> Iterator[Finding]:
    for table, literal, lost in patient.ask("version_defaults"):
        what = "column replication_version" if lost else "default of replication_version"
        yield mend(
            f"the {what} of {table} is gone: nobody can tell which write of a row was the last",
            f"select replication.setup_table_for_replication({literal});",
            fixable=True,
        )


def _columns(patient: Patient) -> Iterator[Finding]:
    for table, literal in patient.ask("stale_captures"):
        yield notice(
            f"the columns of {table} have changed, and its capture is not compiled anew yet: each "
            "statement costs more until then, nothing is lost",
            f"wait for a publisher, or: select replication.setup_table_for_replication({literal});",
        )


def _event_trigger(patient: Patient) -> Iterator[Finding]:
    if not patient.ask("event_trigger"):
        yield notice(
            "there is no event trigger that follows ALTER TABLE: publishers follow within "
            "seconds, and a new partition that a statement names directly is not captured",
            "run replication-pipeline init once as a superuser, or set a table up again after "
            "adding a partition",
        )


def _quiet(patient: Patient) -> Iterator[Finding]:
    for table, triggers in patient.ask("quiet_triggers"):
        yield notice(
            f"{triggers} of {table} fire for this contour's own writes, and not for applied rows: "
            "what they do elsewhere is not done here",
            "replicate the tables that they write to as well; nothing else is to be done",
        )


CHECKS: Final = (
    PatientCheck("tables", "capture", _tables, "those set up and those configured are the same"),
    PatientCheck(
        "triggers", "capture", _triggers, "capture is on, and nothing else fires for applied rows"
    ),
    PatientCheck("versions", "capture", _version, "every row gets the version of its write"),
    PatientCheck(
        "columns", "capture", _columns, "captures are compiled for the tables as they are"
    ),
    PatientCheck("event trigger", "capture", _event_trigger, "ALTER TABLE is followed at once"),
    PatientCheck("user triggers", "capture", _quiet, "no table has triggers of its own"),
)
