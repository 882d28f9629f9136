"""Connections to the contour's database, with the session settings that the cycles rely on.

Timeouts are always set: a session that hangs would hold locks and snapshots that others wait for.
A connection that failed in any way is closed and made anew; none is ever mended.
"""

from __future__ import annotations

import psycopg

from replication_pipeline.domain.errors import WrongContourError
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.conninfo import conninfo_of
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.refusals import refusal
from replication_pipeline.settings import Settings

# Values leave and enter as text in exactly these forms, whatever the role's own settings are.
SESSION_SETTINGS = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "xmloption": "content",
    # Each statement sees what was committed before it; all locking relies on that.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "quote_all_identifiers": "off",  # type names are read from the catalog as text
}


def connect(
    settings: Settings, *, application_name: str, autocommit: bool = True, check: bool = True
) -> psycopg.Connection:
    """A new connection with pinned session settings and timeouts.

    ``check``: refuse a database that is not this contour's. Raises ``TransientError`` when the
    server can't be reached, ``FatalError`` when it refuses us, or is not the one we trust.
    """
    postgres = settings.postgres
    milliseconds = {
        "statement_timeout": postgres.statement_timeout,
        "lock_timeout": postgres.lock_timeout,
        # Longer than Kafka may take to acknowledge a claimed batch.
        "idle_in_transaction_session_timeout": settings.kafka.delivery_timeout * 2,
    }
    options = SESSION_SETTINGS | {
        name: str(round(value.total_seconds() * 1000)) for name, value in milliseconds.items()
    }
    target = conninfo_of(postgres, strict=settings.strict)
    with translating(f"contour {settings.contour.name}"):
        try:
            connection = psycopg.connect(target, application_name=application_name, autocommit=True)
        except psycopg.OperationalError as error:
            if refused := refusal(error, target, settings.contour.name):
                raise refused from error
            raise
        try:
            connection.execute(
                "select " + ", ".join("set_config(%s, %s, false)" for _ in options),
                [part for item in options.items() for part in item],
            )
            if check:
                check_identity(connection, settings)
        except BaseException:
            connection.close()
            raise
    connection.autocommit = autocommit
    return connection


def is_shared(connection: psycopg.Connection) -> bool:
    """Whether a pooler may hand this session to others between transactions: it gives its clients keys
    of its own to cancel by, as it does not know yet whose session they will get.
    """
    row = connection.execute(queries.load("apply")["backend"]).fetchone()
    return row is None or row[0] != connection.info.backend_pid


def patient(settings: Settings) -> Settings:
    """For whoever locks shards: a publisher holds them for as long as Kafka may take to answer."""
    patience = settings.postgres.lock_timeout + settings.kafka.delivery_timeout
    postgres = settings.postgres.model_copy(update={"lock_timeout": patience})
    return settings.model_copy(update={"postgres": postgres})


def pin_plans(connection: psycopg.Connection, *settings: str) -> None:
    """Switch planner settings off for this session, where tables change too fast for statistics."""
    for setting in settings:
        connection.execute("select set_config(%s, 'off', false)", (setting,))


def check_identity(connection: psycopg.Connection, settings: Settings) -> None:
    """Raise ``WrongContourError`` when the database belongs to another contour."""
    row = connection.execute(queries.load("workers")["identity"]).fetchone()
    if row is None or (row[0], row[1]) != (settings.contour.name, settings.contour.id):
        found = f"contour {row[0]} (id {row[1]})" if row else "no contour yet"
        raise WrongContourError(
            f"the configuration is for contour {settings.contour.name} "
            f"(id {settings.contour.id}), but the database is {found}",
            remedy="check postgres.dsn, or run replication-pipeline init in a new database",
        )
