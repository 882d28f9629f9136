"""A contour restored from a backup learns from Kafka what it has lost, its own events among it."""

from __future__ import annotations

import json
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from replication_pipeline import runtime
from replication_pipeline.cli import replay as cli
from replication_pipeline.cli.main import app
from replication_pipeline.domain.model import BatchResult, WindowTotals
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.kafka.replay import Start
from replication_pipeline.observe import ReplayLog
from replication_pipeline_tests.acceptance.test_command_line import COMMAND, configuration
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows, settle
from replication_pipeline_tests.integration.test_positions import cut
from replication_pipeline_tests.publishing import until, with_settings

pytestmark = pytest.mark.integration

TABLES = ["parents", "children", "notes"]
FAMILY = """
create table parents (id bigint primary key, name text);
create table children (id bigint primary key, parent bigint not null references parents, name text);
create table notes (id bigint primary key, body text unique)
"""


@pytest.fixture
def contours(make_contours: MakeContours, kafka: EmbeddedKafka) -> list[Contour]:
    return make_contours(FAMILY, TABLES)


def replay(contour: Contour, start: Start = 0, *, tables: list[str] | None = None) -> WindowTotals:
    """In batches so small that former and newer events of a row come in different ones."""
    small = with_settings(contour.settings, consumer={"batch_size": 20})
    return runtime.plan_replay(small, start, tables=tables, stop=StopToken()).run(ReplayLog())


def back_up(postgres: EmbeddedPostgres, contour: Contour) -> str:
    """A copy of the database as it is now."""
    name = contour.app.info.dbname
    contour.close()
    postgres.create_database(f"{name}_backup", template=name)
    reconnect(contour)
    return f"{name}_backup"


def restore(postgres: EmbeddedPostgres, contour: Contour, backup: str) -> None:
    name = contour.app.info.dbname
    contour.close()
    with postgres_session(postgres) as session:
        session.execute(f'drop database "{name}" with (force)')
        session.execute(f'create database "{name}" template "{backup}"')
        session.execute(f'alter database "{name}" set search_path = public, replication')
    reconnect(contour)


def postgres_session(postgres: EmbeddedPostgres) -> Any:
    import psycopg

    return psycopg.connect(postgres.dsn("postgres"), autocommit=True)


def reconnect(contour: Contour) -> None:
    contour.app = contour.session(autocommit=True)
    contour.run("set search_path = public, replication")


def work(contour: Contour) -> None:
    contour.run("update parents set name = 'changed' where id < 10")
    contour.run("insert into parents select g, 'new' from generate_series(101, 140) g")
    contour.run("insert into children select g, g from generate_series(101, 140) g")
    contour.run("delete from children where id between 11 and 20")
    contour.run("delete from parents where id between 11 and 20")
    contour.run(
        "insert into children values (200, 1, 'gone again'); delete from children where id = 200"
    )


def everything(contour: Contour) -> dict[str, Any]:
    """Rows with the transactions that wrote them, and what else applying leaves behind."""
    found = {t: contour.run(f"select t.*, t.xmin::text from {t} t order by id") for t in TABLES}
    for table in ("replication_tombstones", "replication_conflicts", "parked_events", "workers",
                  "consumer_offsets", "processed_events"):  # fmt: skip
        found[table] = contour.run(
            f"select t::text, t.xmin::text from replication.{table} t order by 1"
        )
    return found


def test_a_restored_contour_is_as_it_was(
    contours: list[Contour], postgres: EmbeddedPostgres
) -> None:
    a, b = contours
    a.run("insert into parents select g, 'old' from generate_series(1, 40) g")
    a.run("insert into children select g, g from generate_series(1, 40) g")
    settle(contours, rounds=1)
    backup = back_up(postgres, a)
    taken = datetime.now(UTC)
    work(a)
    b.run("insert into notes values (1, 'from b'); update parents set name = 'b' where id = 30")
    settle(contours, rounds=1)
    a.run("update children set name = 'queued' where id = 5")  # published after the backup, too
    settle(contours, rounds=1)
    restore(postgres, a, backup)
    assert not same_rows(contours, "parents")
    totals = replay(a, taken)
    assert totals.end == "drained"
    assert totals.applied > 0
    for table in TABLES:
        assert same_rows(contours, table)
    assert a.value("select count(*) from replication.parked_events") == 0
    assert a.value("select count(*) from replication_queue where not published") == 0
    # Appliers go on from the backup's offsets, and find all of it here.
    before = [a.run(f"select t.*, xmin from {t} t order by id") for t in TABLES]
    assert a.apply().applied == 0
    assert before == [a.run(f"select t.*, xmin from {t} t order by id") for t in TABLES]
    # A write is above what was learned, and wins everywhere.
    learned = a.value("select replication_version from parents where id = 5")
    a.run("update parents set name = 'after' where id = 5")
    assert a.value("select replication_version from parents where id = 5") > learned
    a.run("insert into children values (200, 1, 'a key that had been deleted')")
    settle(contours, rounds=1)
    assert b.value("select name from parents where id = 5") == "after"
    for table in TABLES:
        assert same_rows(contours, table)


def test_a_healthy_contour_is_left_as_it_is(contours: list[Contour]) -> None:
    a, b = contours
    a.run("insert into parents select g, 'old' from generate_series(1, 40) g")
    a.run("insert into children select g, g from generate_series(1, 40) g")
    settle(contours, rounds=1)
    work(a)
    b.run("update parents set name = 'b' where id = 30; delete from children where id = 31")
    settle(contours, rounds=1)
    for contour in contours:
        before = everything(contour)
        totals = replay(contour)
        assert (totals.applied, totals.parked) == (0, 0)
        assert totals.skipped > 150
        assert everything(contour) == before


def test_events_that_have_to_wait_are_parked_and_come_later(contours: list[Contour]) -> None:
    """Own events, too: whoever tries parked ones again must not drop them as come home."""
    a = contours[0]
    a.run("insert into parents values (1, 'p'); insert into children values (1, 1)")
    a.run("insert into notes values (1, 'taken'), (2, 'other')")
    settle(contours, rounds=1)
    with a.app.transaction():
        a.run("set local session_replication_role = replica")
        a.run("delete from children; delete from parents; delete from notes where id = 1")
        a.run("update notes set body = 'taken' where id = 2")
    totals = replay(a, tables=["children", "notes"])
    assert (totals.applied, totals.parked) == (0, 2)
    assert replay(a, tables=["children", "notes"]).parked == 2
    waiting = a.run("select reason from replication.parked_events order by 1")
    assert waiting == [("missing_parent",), ("unique_conflict",)]
    assert replay(a, tables=["parents"]).applied == 1
    with a.app.transaction():
        a.run("set local session_replication_role = replica")
        a.run("update notes set body = 'other' where id = 2")
    a.apply()
    assert a.value("select count(*) from replication.parked_events") == 0
    for table in TABLES:
        assert same_rows(contours, table)


def test_it_runs_beside_writers_and_appliers(contours: list[Contour]) -> None:
    a, b = contours
    a.run("insert into notes select g, 'n' || g from generate_series(1, 400) g")
    settle(contours, rounds=1)
    with a.app.transaction():
        a.run("set local session_replication_role = replica")
        a.run("delete from notes where id > 100")
    small = with_settings(a.settings, consumer={"batch_size": 50})
    rounds = iter(range(1, 1000))

    class Writing(ReplayLog):
        def batch(self, result: BatchResult, totals: WindowTotals) -> None:
            number = next(rounds)
            a.run("update notes set body = 'a' || id where id %% 37 = %s", number % 37)
            b.run("update notes set body = 'b' || id where id %% 41 = %s", number % 41)
            b.publish()

    run = runtime.plan_replay(small, 0, tables=["notes"], stop=StopToken())
    with applying(a.settings) as (applier,):
        totals = run.run(Writing())
        assert totals.end == "drained"
        settle(contours, rounds=1)
        until(lambda: same_rows(contours, "notes"), "both to be equal")
        assert applier.failure is None
    assert a.value("select count(*) from notes") == 400


def invoke(contour: Contour, *arguments: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "configured", lambda _: contour.settings)
        return CliRunner().invoke(app, ["replay", *arguments])


def test_the_command_says_what_it_did_and_what_is_gone(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = users
    a.run("insert into users (id) select generate_series(1, 30)")
    settle(users, rounds=1)
    b.run("truncate replication.processed_events")
    with b.app.transaction():
        b.run("set local session_replication_role = replica")
        b.run("delete from users where id > 20")
    told = json.loads(invoke(b, "--since", "1h", "--json").stdout)
    assert (told["planned"], told["read"], told["applied"], told["skipped"]) == (30, 30, 10, 20)
    assert (told["ended_by"], told["per_table"]) == ("done", {"users": 10})
    assert same_rows(users, "users")
    assert json.loads(invoke(b, "--since", "0s", "--json").stdout)["read"] == 0
    cut(AdminClient({"bootstrap.servers": kafka.bootstrap_servers}), a, leave=1)
    told = json.loads(invoke(b, "--from-offset", "0", "--json").stdout)
    assert (told["planned"], told["gone"]) == (3, 27)
    assert "Kafka has removed 27" in invoke(b, "--from-offset", "0").output
    assert "Kafka has removed the beginning" in invoke(b, "--since", "1h").output
    for wrong in ([], ["--since", "1h", "--from-offset", "0"], ["--since", "x"], ["--table", "x"]):
        assert invoke(b, *wrong).exit_code != 0


def test_a_stop_ends_in_order_and_running_again_finishes(
    users: list[Contour], kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    a, b = users
    a.run("insert into users (id) select generate_series(1, 1500)")
    a.publish()
    config = configuration(tmp_path, b, consumer={"batch_size": 5, "max_batch_size": 5})
    with subprocess.Popen(
        [*COMMAND, "replay", "--from-offset", "0", "--json", "--config", config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: b.value("select count(*) from users") > 0, "the first events")
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=20)
    assert process.returncode == 1, errors
    told = json.loads(printed)
    assert told["ended_by"] == "stopped"
    assert 0 < told["applied"] == b.value("select count(*) from users") < 1500
    assert errors == ""
    rest = runtime.plan_replay(b.settings, 0, tables=None, stop=StopToken()).run(ReplayLog())
    assert rest.applied == 1500 - told["applied"]
    assert same_rows(users, "users")
