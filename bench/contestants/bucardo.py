"""Bucardo's triggers: the keys that have changed, and a NOTIFY for each statement.

They are made for a sync to another database, which is not needed any more once they are there; no
daemon runs.
"""

from __future__ import annotations

import psycopg
from psycopg import Connection, sql

from bench import users
from bench.database import with_database
from bench.peers import bucardo

TARGET = sql.Identifier("bucardo_target")


class Bucardo:
    name = "bucardo"

    def missing(self, connection: Connection) -> str | None:
        return bucardo.missing(connection.info.dsn)

    def install(self, connection: Connection) -> None:
        elsewhere = with_database(connection.info.dsn, dbname="postgres")
        source, target = connection.info.dbname, TARGET.as_string(connection).strip('"')
        with (
            psycopg.connect(elsewhere, autocommit=True) as other,
            bucardo.installed_on(elsewhere) as control,
        ):
            other.execute(sql.SQL("create database {}").format(TARGET))
            with psycopg.connect(with_database(elsewhere, dbname=target), autocommit=True) as to:
                to.execute(users.TABLE)
            control.sync(source, target)
            other.execute(sql.SQL("drop database {} with (force)").format(TARGET))
