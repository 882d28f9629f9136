"""The server, and what piles up in the database: versions, old transactions, vacuum, retention."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from replication_pipeline.domain.findings import Finding, fine, mend, notice
from replication_pipeline.postgres.checks.patient import Patient, PatientCheck
from replication_pipeline.postgres.queries import sql_directory

LEAST_VERSION: Final = 150_000
DAY: Final = 86_400


@cache
def files_version() -> int:
    """The version of the SQL that this package brings."""
    text = (sql_directory() / "schema" / "20_tables.sql").read_text(encoding="utf-8")
    found = re.search(r"files_version constant integer := (\d+);", text)
    assert found is not None
    return int(found[1])


def _versions(patient: Patient) -> Iterator[Finding]:
    ((version, number, standby, installed, *_),) = patient.ask("server")
    if number < LEAST_VERSION:
        yield mend(f"PostgreSQL {version} is too old", "upgrade to PostgreSQL 15 or newer")
    if standby:
        yield mend(
            "the server is a standby, and takes no writes", "let postgres.dsn name the primary"
        )
    if installed < files_version():
        yield mend(
            f"the installed SQL has version {installed}, this program brings {files_version()}",
            "replication-pipeline init",
        )
    elif installed > files_version():
        yield mend(
            f"the installed SQL has version {installed}, this program only {files_version()}",
            "upgrade this program to the release that installed it",
        )
    else:
        yield fine(f"PostgreSQL {version}; the SQL has version {installed}, as this program")


def _collation(patient: Patient) -> Iterator[Finding]:
    for built, now in patient.ask("collation"):
        yield mend(
            f"indexes were built with version {built} of the collation, the system has {now}: "
            "look-ups of text may miss rows",
            "reindex the database, then alter database … refresh collation version;",
        )


def _transactions(patient: Patient) -> Iterator[Finding]:
    longest = patient.settings.monitoring.snapshot_warning.total_seconds()
    for who, remedy, seconds in patient.ask("old_transactions", longest=longest):
        yield mend(
            f"{who}: its transaction is {seconds / 60:,.0f} min old, and keeps vacuum from the "
            "queue",
            remedy,
        )
    if not patient.ask("sees_everybody")[0][0]:
        yield notice(
            f"role {patient.role} does not see other roles' transactions",
            f"grant pg_read_all_stats to {patient.role};",
        )


def _vacuum(patient: Patient) -> Iterator[Finding]:
    ((*_, counts, autovacuum),) = patient.ask("server")
    if not (counts and autovacuum):
        yield mend(
            "autovacuum is off on this server: the queue grows without end",
            "set autovacuum and track_counts to on, and reload",
        )
    for (table,) in patient.ask("vacuum_off"):
        yield mend(
            f"autovacuum of {table} is off",
            f"alter table {table} reset (autovacuum_enabled);",
            fixable=True,
        )
    for table, dead, size in patient.ask(
        "dead_rows", most=patient.settings.monitoring.dead_rows_warning
    ):
        yield notice(f"{table} has {dead:,} dead rows in {size}", f"vacuum {table};")


def _retention(patient: Patient) -> Iterator[Finding]:
    cleanup, kafka = patient.settings.cleanup, patient.settings.kafka
    for key, kept in (
        ("processed_events", cleanup.processed_events),
        ("tombstones", cleanup.tombstones),
    ):
        if kept < kafka.retention:
            yield mend(
                f"cleanup.{key} ({_days(kept.total_seconds())}) is shorter than kafka.retention "
                f"({_days(kafka.retention.total_seconds())}): an event read again finds nothing "
                "that knows it",
                f"set cleanup.{key} to {_days(kafka.retention.total_seconds() * 2)} or more",
            )
    for (seconds,) in patient.ask("ring"):
        if seconds > cleanup.published.total_seconds() > 0:
            yield notice(
                f"the queue has been written to one partition for {_days(seconds)}: cleanup does "
                "not run, or an event that waits keeps it",
                "replication-pipeline cleanup; then look at cleanup_schedule, and at parked list",
            )


def _days(seconds: float) -> str:
    return f"{seconds / DAY:g}d" if seconds >= DAY else f"{seconds / 3600:.3g}h"


CHECKS: Final = (
    PatientCheck("versions of the server", "server", _versions, ""),
    PatientCheck("collation", "server", _collation, "indexes and the system agree on sorting"),
    PatientCheck("transactions", "server", _transactions, "no old transaction holds vacuum back"),
    PatientCheck("vacuum", "server", _vacuum, "autovacuum is on, and has no backlog"),
    PatientCheck("retention", "server", _retention, "what is applied is known for long enough"),
)
