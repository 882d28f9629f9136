"""Looking for what is wrong in a contour's database: rights, row security, triggers, tables.

It reads catalogs alone and changes nothing. It asks about the role it is connected as, so run it with
the configuration that the windows have. What belongs to Kafka, clocks or other contours is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from replication_pipeline.domain.findings import Finding
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating
from replication_pipeline.settings import Settings

SQL: Final = queries.load("doctor")
APPLIES: Final = "replication_consumer"


@dataclass(frozen=True, slots=True)
class _Doctor:
    connection: psycopg.Connection
    settings: Settings
    role: str

    def ask(self, name: str) -> list[tuple[Any, ...]]:
        parameters = {"tables": list(self.settings.tables)}
        return self.connection.execute(SQL[name], parameters).fetchall()


def examine(connection: psycopg.Connection, settings: Settings) -> list[Finding]:
    """All findings, in the order in which they are best mended; good ones included."""
    with translating(f"contour {settings.contour.name}: examining the database"):
        ((role,),) = connection.execute("select quote_ident(current_user)").fetchall()
        doctor = _Doctor(connection, settings, role)
        ((can_look,),) = doctor.ask("can_look")
        found = list(_membership(doctor))
        if not can_look:  # nothing else can be asked
            return found
        for check, (look, good) in CHECKS.items():
            findings = list(look(doctor))
            found += findings or [Finding(check, "good", good)]
        return found


def _membership(doctor: _Doctor) -> Iterator[Finding]:
    groups = [name for (name,) in doctor.ask("membership")]
    if groups:
        yield Finding(
            "roles",
            "mend",
            f"role {doctor.role} is no member of {' and '.join(groups)}",
            f"grant {', '.join(groups)} to {doctor.role};",
        )
    else:
        yield Finding("roles", "good", f"role {doctor.role} may publish and apply")


def _rights(doctor: _Doctor) -> Iterator[Finding]:
    for (schema,) in doctor.ask("schemas"):
        yield Finding(
            "rights",
            "mend",
            f"role {doctor.role} can't enter schema {schema}",
            f"grant usage on schema {schema} to {APPLIES};",
        )
    for table, applied, privileges in doctor.ask("tables"):
        why = "is replicated" if applied else "is tied to a replicated one by a foreign key"
        yield Finding(
            "rights",
            "mend",
            f"role {doctor.role} lacks {privileges} on {table}, which {why}",
            f"grant {privileges} on {table} to {APPLIES};",
        )
    for table, privilege, group in doctor.ask("own_objects"):
        yield Finding(
            "rights",
            "mend",
            f"role {doctor.role} lacks {privilege.lower()} on {table}",
            f"grant {group} to {doctor.role};",
        )
    ((may_set,),) = doctor.ask("parameter")
    if not may_set:
        yield Finding(
            "rights",
            "mend",
            f"role {doctor.role} may not set session_replication_role, so applied rows would fire "
            "triggers and be captured again",
            f"grant set on parameter session_replication_role to {APPLIES};",
        )


def _row_security(doctor: _Doctor) -> Iterator[Finding]:
    for (table,) in doctor.ask("row_security"):
        yield Finding(
            "row security",
            "mend",
            f"policies of {table} hide rows from role {doctor.role}: their changes would be lost "
            "without an error",
            f"alter role {doctor.role} bypassrls;",
        )


def _tables(doctor: _Doctor) -> Iterator[Finding]:
    for (table,) in doctor.ask("not_set_up"):
        yield Finding(
            "tables",
            "mend",
            f"table {table} is configured, but not set up here",
            f"replication-pipeline setup-table {table}",
        )
    for (table,) in doctor.ask("not_configured"):
        yield Finding(
            "tables",
            "mend",
            f"table {table} is set up here, but not configured: what other contours write to it is "
            "not applied",
            f"name it under tables:, or replication-pipeline remove-table {table}",
        )


def _triggers(doctor: _Doctor) -> Iterator[Finding]:
    for table, trigger in doctor.ask("disabled_triggers"):
        yield Finding(
            "triggers",
            "mend",
            f"{trigger} of {table} is not in its usual mode: writes are lost, or loop",
            f"alter table {table} enable trigger {trigger};",
        )
    for table, trigger in doctor.ask("loud_triggers"):
        yield Finding(
            "triggers",
            "notice",
            f"trigger {trigger} of {table} fires for applied rows as well, and may change them",
            f"alter table {table} enable trigger {trigger};",
        )


CHECKS: Final[Mapping[str, tuple[Callable[[_Doctor], Iterator[Finding]], str]]] = {
    "rights": (_rights, "nothing is missing, and no superuser is needed"),
    "row security": (_row_security, "no policy hides rows from applying"),
    "tables": (_tables, "those set up and those configured are the same"),
    "triggers": (_triggers, "capture is on, and nothing else fires for applied rows"),
}
