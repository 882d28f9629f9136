"""What docs/tables.md tells to do, done; with snapshots, in test_snapshot_live.py."""

from __future__ import annotations

import pytest

from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.postgres import installer
from replication_pipeline.postgres.connection import connect
from replication_pipeline_tests.conftest import USERS, Contour, same_rows, settle

pytestmark = pytest.mark.integration

COLUMNS = "id, email, name, balance, meta, updated_at, replication_version"


def test_a_contour_is_added_with_a_copy_of_the_rows(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = users
    a.run("insert into users (id, name) select n, 'old' from generate_series(1, 50) n")
    a.run("update users set name = 'newer' where id <= 10")
    a.run("delete from users where id > 40")
    a.publish()
    a.apply()
    b.run("select replication.remove_table_from_replication('users'); drop table users")
    b.run(f"{USERS}; alter table users add replication_version bigint default 0")
    with (
        a.app.cursor().copy(f"copy users ({COLUMNS}) to stdout") as there,
        b.app.cursor().copy(f"copy users ({COLUMNS}) from stdin") as here,
    ):
        for data in there:
            here.write(data)
    with connect(b.settings, application_name="test") as connection:
        installer.setup_table(connection, b.settings, "users")
    totals = b.apply()
    assert totals.skipped + totals.applied == 70
    assert same_rows([a, b], "users")
    assert b.value("select count(*) from replication_queue") == 0, "the copy is no change"
    a.run("update users set name = 'from a' where id = 1")
    b.run("update users set name = 'from b' where id = 2; delete from users where id = 3")
    b.run("insert into users (id) values (41)")
    settle([a, b], rounds=2)
    assert same_rows([a, b], "users")
    assert a.value("select name from users where id = 2") == "from b"
    assert a.value("select count(*) from users") == 40
