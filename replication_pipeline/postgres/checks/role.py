"""The role of the windows and its connection: what it may, what is hidden, and who listens in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from replication_pipeline.domain.findings import Finding, fine, mend, notice
from replication_pipeline.domain.network import is_local
from replication_pipeline.postgres.checks.patient import APPLIES, Patient, PatientCheck
from replication_pipeline.postgres.connection import is_shared


def _membership(patient: Patient) -> Iterator[Finding]:
    groups = [name for (name,) in patient.ask("membership")]
    if groups:
        yield mend(
            f"role {patient.role} is no member of {' and '.join(groups)}",
            f"grant {', '.join(groups)} to {patient.role};",
        )
    else:
        yield fine(f"role {patient.role} may publish and apply")


def _rights(patient: Patient) -> Iterator[Finding]:
    for (schema,) in patient.ask("schemas"):
        yield mend(
            f"role {patient.role} can't enter schema {schema}",
            f"grant usage on schema {schema} to {APPLIES};",
        )
    for table, applied, privileges in patient.ask("tables"):
        why = "is replicated" if applied else "is tied to a replicated one by a foreign key"
        yield mend(
            f"role {patient.role} lacks {privileges} on {table}, which {why}",
            f"grant {privileges} on {table} to {APPLIES};",
        )
    for table, privilege, group in patient.ask("own_objects"):
        yield mend(
            f"role {patient.role} lacks {privilege.lower()} on {table}",
            f"grant {group} to {patient.role};",
        )
    ((may_set,),) = patient.ask("parameter")
    if not may_set:
        yield mend(
            f"role {patient.role} may not set session_replication_role, so applied rows would fire "
            "triggers and be captured again",
            f"grant set on parameter session_replication_role to {APPLIES};",
        )


def _row_security(patient: Patient) -> Iterator[Finding]:
    for (table,) in patient.ask("row_security"):
        yield mend(
            f"policies of {table} hide rows from role {patient.role}: their changes would be lost "
            "without an error",
            f"alter role {patient.role} bypassrls;",
        )


def _pooler(patient: Patient) -> Iterator[Finding]:
    if is_shared(patient.connection):
        yield notice(
            "a pooler shares sessions between transactions: each batch of an applier sets its "
            "session up anew, and publishers can't be woken",
            "let postgres.dsn name PostgreSQL itself, or a pool that keeps a session to one "
            "connection",
        )


def _tls(patient: Patient) -> Iterator[Finding]:
    info = patient.connection.info
    ((used,),) = patient.ask("tls")
    if used:
        yield fine("the connection to PostgreSQL is encrypted")
    elif not is_local(info.hostaddr or info.host):
        yield notice(
            f"rows and the password's proof travel to {info.host} in the clear",
            "set postgres.sslmode: verify-full and postgres.sslrootcert",
        )


MEMBERSHIP: Final = PatientCheck("roles", "role", _membership, "")
CHECKS: Final = (
    PatientCheck("rights", "role", _rights, "nothing is missing, and no superuser is needed"),
    PatientCheck("row security", "role", _row_security, "no policy hides rows from applying"),
    PatientCheck("pooler", "role", _pooler, "each session has a server connection of its own"),
    PatientCheck("tls", "role", _tls, "the connection does not leave the machine"),
)
