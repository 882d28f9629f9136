r"""Installing and upgrading the SQL, and setting tables up.

``init`` runs the very files that ``psql -f sql/00_master_setup.sql`` runs, in the same order and as
one transaction: the master file's ``\ir`` lines are the list.
"""

from __future__ import annotations

import re
from typing import Final, LiteralString, cast

from psycopg import Connection

from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.postgres.connection import check_identity
from replication_pipeline.postgres.failures import translating_refusals
from replication_pipeline.postgres.queries import sql_directory
from replication_pipeline.settings import Settings, TableOptions

_INCLUDE: Final = re.compile(r"^\\ir (\S+)$", re.MULTILINE)


def install(connection: Connection, settings: Settings) -> None:
    """Install the SQL, or upgrade it in place. ``connection`` must be in autocommit mode.

    Raises ``FatalError`` when the role lacks rights or the database is another contour's.
    """
    folder = sql_directory()
    master = (folder / "00_master_setup.sql").read_text(encoding="utf-8")
    contour = settings.contour
    with (
        translating_refusals(f"contour {contour.name}: installing the SQL"),
        connection.transaction(),
    ):
        connection.execute("set local client_min_messages = warning")
        connection.execute(
            "select set_config('replication.setup_contour', %s, true), "
            "set_config('replication.setup_contour_id', %s, true)",
            (contour.name, str(contour.id)),
        )
        for name in _INCLUDE.findall(master):
            text = (folder / name).read_text(encoding="utf-8")
            connection.execute(cast("LiteralString", text))


def setup_table(connection: Connection, settings: Settings, table: str) -> None:
    """Capture ``table`` from now on, with the options of the configuration."""
    check_identity(connection, settings)
    options = settings.tables.get(table, TableOptions())
    with translating_refusals(f"contour {settings.contour.name}: table {table}"):
        relation = relation_of(connection, table)
        connection.execute(
            "select replication.setup_table_for_replication(%s::text::regclass, full_before => %s,"
            " include => %s, exclude => %s, capture_truncate => %s, displace => %s,"
            " merge => %s, delta_columns => %s)",
            (
                relation,
                options.full_before,
                options.include,
                options.exclude,
                options.capture_truncate,
                options.displace,
                options.merge,
                options.delta_columns,
            ),
        )


def remove_table(
    connection: Connection, settings: Settings, table: str, *, drop_version_column: bool
) -> None:
    """Stop capturing ``table``; queued events stay."""
    check_identity(connection, settings)
    with translating_refusals(f"contour {settings.contour.name}: table {table}"):
        connection.execute(
            "select replication.remove_table_from_replication(%s::text::regclass, %s)",
            (relation_of(connection, table), drop_version_column),
        )


def relation_of(connection: Connection, table: str) -> str:
    """How PostgreSQL calls ``table`` now: it may have been renamed since it was set up, and is known by
    its former name. ``RefusedError`` when it is given by its new one.
    """
    named = connection.execute(
        "select r.relation::text, r.table_name from replication.replicated_tables r"
        " join pg_class c on c.oid = r.relation"
        " where r.table_name = %(name)s or r.relation = to_regclass(%(quoted)s)"
        " order by r.table_name = %(name)s desc",
        {"name": table, "quoted": quoted(table)},
    ).fetchone()
    if named is None:
        return quoted(table)
    if named[1] != table:
        raise RefusedError(
            f"table {table} was renamed: it is {named[1]} in events, topics and configurations",
            remedy=f"keep the name {named[1]} under tables:, or see docs/schema-changes.md",
        )
    return str(named[0])


def quoted(table: str) -> str:
    """``schema.table`` or ``table`` (in public) as PostgreSQL reads it, every part quoted."""
    schema, _, relation = table.rpartition(".")
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema or "public", relation))
