"""The SQL installs by psql alone, again without harm, and is what the snapshot says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.postgres.queries import sql_directory
from replication_pipeline_tests.conftest import Contour

pytestmark = pytest.mark.integration

MASTER = sql_directory() / "00_master_setup.sql"
SNAPSHOT = sql_directory() / "schema.snapshot.sql"


def psql(postgres: EmbeddedPostgres, dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(postgres.bin("psql")), "-X", "-d", dsn, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def install(
    postgres: EmbeddedPostgres, dsn: str, name: str = "a", number: int = 1
) -> subprocess.CompletedProcess[str]:
    return psql(
        postgres, dsn, "-v", f"contour={name}", "-v", f"contour_id={number}", "-f", str(MASTER)
    )


def dump(postgres: EmbeddedPostgres, dsn: str) -> str:
    """The schema without what differs from one pg_dump to the next."""
    text = subprocess.run(
        [str(postgres.bin("pg_dump")), "-d", dsn, "--schema-only", "--schema=replication"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    lines = [
        line
        for line in text.splitlines()
        if line.strip() and not re.match(r"--|\\(un)?restrict|SET |SELECT pg_catalog", line)
    ]
    return "\n".join(lines) + "\n"


def test_psql_installs_and_installs_again_without_harm(postgres: EmbeddedPostgres) -> None:
    dsn = postgres.create_database("install_psql")
    first = install(postgres, dsn)
    assert first.returncode == 0, first.stderr
    assert "replication_pipeline is installed: contour a, id 1" in first.stdout
    before = dump(postgres, dsn)
    again = install(postgres, dsn)
    assert again.returncode == 0, again.stderr
    assert dump(postgres, dsn) == before


def test_the_schema_is_what_the_snapshot_says(postgres: EmbeddedPostgres) -> None:
    dsn = postgres.create_database("install_snapshot")
    assert install(postgres, dsn).returncode == 0
    now = dump(postgres, dsn)
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(now, encoding="utf-8")
    assert now == SNAPSHOT.read_text(encoding="utf-8"), (
        "the schema has changed; look at the difference, raise files_version in "
        "sql/schema/20_tables.sql, and write the snapshot with make snapshot"
    )


def test_init_and_psql_install_the_same(
    postgres: EmbeddedPostgres, templates: dict[str, str]
) -> None:
    dsn = postgres.create_database("install_init", template=templates["a"])
    assert dump(postgres, dsn) == SNAPSHOT.read_text(encoding="utf-8")


def test_an_upgrade_keeps_queue_and_tables(
    users: list[Contour], postgres: EmbeddedPostgres
) -> None:
    contour = users[0]
    contour.run("insert into users (id, name) values (1, 'before')")
    contour.run("update replication.contour set schema_version = 0")
    # Capture functions of an older release are compiled again.
    contour.run(
        "create or replace function replication.capture_1() returns trigger "
        "language plpgsql as 'begin return null; end'"
    )
    upgraded = install(postgres, contour.dsn)
    assert upgraded.returncode == 0, upgraded.stderr
    contour.run("insert into users (id, name) values (2, 'after')")
    assert [key for _, key, _ in contour.queue()] == ['{"id":1}', '{"id":2}']
    assert contour.value("select schema_version from replication.contour") == 2


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            ("-v", "contour=b", "-v", "contour_id=1"),
            "this database is contour a (id 1), not b (id 1)",
        ),
        (
            ("-v", "contour=a", "-v", "contour_id=2"),
            "this database is contour a (id 1), not a (id 2)",
        ),
        (("-v", "contour=a"), "the contour's name and number are needed"),
        ((), "the contour's name and number are needed"),
    ],
)
def test_another_contour_is_refused(
    postgres: EmbeddedPostgres,
    users: list[Contour],
    variables: tuple[str, ...],
    message: str,
) -> None:
    done = psql(postgres, users[0].dsn, *variables, "-f", str(MASTER))
    assert done.returncode != 0
    assert message in done.stderr
    assert users[0].value("select name from replication.contour") == "a"


def test_files_older_than_the_database_are_refused(
    postgres: EmbeddedPostgres, users: list[Contour]
) -> None:
    users[0].run("update replication.contour set schema_version = 999")
    done = install(postgres, users[0].dsn)
    assert done.returncode != 0
    assert "schema version 999" in done.stderr


def test_monitoring_statements_work_as_written(
    postgres: EmbeddedPostgres, users: list[Contour]
) -> None:
    users[0].run("insert into users (id) select generate_series(1, 3)")
    done = psql(
        postgres,
        users[0].dsn,
        "-At",
        "-c",
        "SELECT COUNT(*) FROM replication_queue WHERE published = FALSE;",
        "-c",
        "SELECT now() - min(created_at) < interval '1 min' FROM replication_queue "
        "WHERE published = FALSE;",
    )
    assert done.stdout.split() == ["3", "t"], done.stderr


def test_an_existing_search_path_is_kept(postgres: EmbeddedPostgres) -> None:
    dsn = postgres.create_database("install_path")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("alter database install_path set search_path = app, public")
    assert install(postgres, dsn).returncode == 0
    assert install(postgres, dsn).returncode == 0
    with psycopg.connect(dsn) as connection:
        assert connection.execute("show search_path").fetchone() == ("app, public, replication",)


def test_master_file_names_every_schema_file() -> None:
    listed = set(
        re.findall(r"^\\ir schema/(\S+)$", MASTER.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert listed == {path.name for path in Path(MASTER.parent / "schema").glob("*.sql")}
