"""Looking for what is wrong in a contour's database, and beside other contours; and mending some of it.

Looking reads catalogs alone, and a sample of rows, and changes nothing. It asks about the role it is
connected as, so run it with the configuration that the windows have. What belongs to Kafka is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from replication_pipeline.domain.errors import RefusedError, ReplicationError
from replication_pipeline.domain.findings import Finding, NotSeenError
from replication_pipeline.postgres.checks import (
    capture,
    others,
    profile,
    registry,
    role,
    sequences,
    server,
    tables,
)
from replication_pipeline.postgres.checks.patient import SQL, Others, Patient, unseen
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.failures import translating, translating_refusals
from replication_pipeline.settings import Settings

CHECKS: Final = (
    *role.CHECKS,
    *profile.CHECKS,
    *capture.CHECKS,
    *tables.CHECKS,
    *server.CHECKS,
    *registry.CHECKS,
    *others.CHECKS,
    *sequences.CHECKS,
)
SAMPLED_PAGES: Final = 200


@contextmanager
def open_others(settings: Settings, application_name: str) -> Iterator[Others]:
    """The contours of ``compare.contours``: a connection to each, or why there is none."""
    with ExitStack() as opened:
        found: dict[str, psycopg.Connection[Any] | ReplicationError] = {}
        for name in settings.compare.contours:
            there = settings.of_other_contour(name)
            try:
                connection = connect(there, application_name=application_name, check=False)
                opened.enter_context(closing(connection))
                with translating(f"contour {name}"):
                    connection.execute(SQL["who"])
            except ReplicationError as error:
                found[name] = error
            else:
                found[name] = connection
        yield found


def examine(
    connection: psycopg.Connection[Any], settings: Settings, others: Others | None = None
) -> list[Finding]:
    """All findings, in the order in which they are best mended; good ones included.

    ``connection`` must be in autocommit mode, so that a question that is refused spoils no other.
    """
    with translating(f"contour {settings.contour.name}: examining the database"):
        ((who,),) = connection.execute("select quote_ident(current_user)").fetchall()
        patient = Patient(connection, settings, who, others or {})
        ((can_look,),) = patient.ask("can_look")
        found = role.MEMBERSHIP.findings(patient)
        if can_look:  # else nothing more can be asked
            for check in CHECKS:
                found += check.findings(patient)
        return found


def mend(connection: psycopg.Connection[Any], settings: Settings, findings: list[Finding]) -> None:
    """Run the remedies of ``findings``, all or none. ``RefusedError`` when the role may not."""
    try:
        with (
            translating_refusals(f"contour {settings.contour.name}: mending"),
            connection.transaction(),
        ):
            for finding in findings:
                # Ours, made of names that the catalog has quoted.
                connection.execute(finding.remedy.encode())
    except RefusedError as error:
        statements = " ".join(finding.remedy for finding in findings)
        raise RefusedError(
            error.message, remedy=f"run it as the owner of the tables: {statements}"
        ) from error


def longest_rows(
    connection: psycopg.Connection[Any], settings: Settings
) -> Mapping[str, tuple[int, int]]:
    """By table: the bytes of a sample's longest row as an event has it, and how many rows were read."""
    found = {}
    with translating(f"contour {settings.contour.name}: sampling rows"):
        sizes = connection.execute(SQL["sizes"], {"tables": list(settings.tables)}).fetchall()
        for table, schema, relation, full_before, pages in sizes:
            query = sql.SQL(SQL["sample"]).format(table=sql.Identifier(schema, relation))
            share = min(100.0, 100.0 * SAMPLED_PAGES / max(pages, 1))
            try:
                with unseen():
                    ((longest, read),) = connection.execute(query, {"share": share}).fetchall()
            except NotSeenError:
                continue  # for lack of a right, which `rights` says, or of time
            found[table] = (longest * (2 if full_before else 1), read)
    return found
