"""The command line as a user runs it: processes, signals, exit statuses, output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours
from replication_pipeline_tests.integration.test_publish import events_of

pytestmark = pytest.mark.acceptance

COMMAND = [sys.executable, "-m", "replication_pipeline"]


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1"} | (env or {}),
    )


def configuration(path: Path, contour: Contour, /, **sections: Any) -> str:
    file = path / f"{contour.name}.yaml"
    settings = contour.settings
    content = {
        "contour": {"name": contour.name, "id": settings.contour.id},
        "postgres": {"dsn": contour.dsn},
        "kafka": {
            "bootstrap_servers": settings.kafka.bootstrap_servers,
            "topic_prefix": settings.kafka.topic_prefix,
            "partitions": settings.kafka.partitions,
        },
        "tables": list(settings.tables),
    }
    file.write_text(yaml.safe_dump(content | sections), encoding="utf-8")
    return str(file)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_from_nothing_to_replicated_rows(
    postgres: EmbeddedPostgres, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    import psycopg

    configs = []
    dsns = []
    for number, name in enumerate("ab", start=1):
        dsn = postgres.create_database(f"cli_{name}")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(USERS)
        content = {
            "contour": {"name": name, "id": number},
            "postgres": {"dsn": dsn},
            "kafka": {"bootstrap_servers": kafka.bootstrap_servers, "topic_prefix": "cli."},
            "tables": ["users"],
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        configs.append(str(path))
        dsns.append(dsn)
    for config in configs:
        installed = run("init", "--config", config)
        assert installed.returncode == 0, installed.stderr
        table = run("setup-table", "--config", config)
        assert table.returncode == 0, table.stderr
        assert "users: captured in contour" in table.stdout
    with psycopg.connect(dsns[0], autocommit=True) as connection:
        connection.execute("insert into users (id, name) values (1, 'x')")
    published = run("publish", "--until-empty", "--json", "--config", configs[0])
    assert published.returncode == 0, published.stderr
    assert json.loads(published.stdout)["processed"] == 1
    applied = run("apply", "--until-caught-up", "--json", env={"REPLICATION_CONFIG": configs[1]})
    assert json.loads(applied.stdout)["applied"] == 1, applied.stderr
    with psycopg.connect(dsns[1]) as connection:
        assert connection.execute("select id, name from users").fetchall() == [(1, "x")]
    removed = run("remove-table", "users", "--config", configs[0])
    assert removed.returncode == 0, removed.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_publisher_stops_gracefully_and_logs_its_totals(
    users: list[Contour], kafka: EmbeddedKafka, tmp_path: Path, number: signal.Signals
) -> None:
    contour = users[0]
    config = configuration(tmp_path, contour)
    process = subprocess.Popen(
        [*COMMAND, "publish", "--config", config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        pause = threading.Event()
        written = 0
        while contour.value("select processed_total from replication.status") < 200:
            assert process.poll() is None, process.communicate()
            contour.run(
                "insert into users (id) select %s + g from generate_series(1, 50) g", written
            )
            written += 50
            pause.wait(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    published = contour.value("select count(*) from replication_queue where published")
    last = lines(errors)[-1]
    assert (last["event"], last["component"], last["end"]) == (
        "window ended",
        "publisher",
        "stopped",
    )
    assert last["total_processed"] == published >= 200
    assert contour.value("select count(*) from replication.workers where stopped_at is null") == 0
    batches = [line for line in lines(errors) if line["event"] == "batch"]
    assert {"level", "component", "count", "duration_ms", "total_processed"} <= set(batches[0])


def test_a_publisher_stops_gracefully_while_kafka_is_away(
    users: list[Contour], tmp_path: Path
) -> None:
    contour = users[0]
    contour.run("insert into users (id) values (1)")
    config = configuration(tmp_path, contour, kafka={"bootstrap_servers": "127.0.0.1:1"})
    process = subprocess.Popen(
        [*COMMAND, "publish", "--config", config], stderr=subprocess.PIPE, text=True
    )
    free = "select count(*) from (select from replication_queue for update skip locked) q"
    try:
        pause = threading.Event()
        while contour.value(free):
            assert process.poll() is None, process.communicate()
            pause.wait(0.05)
        process.send_signal(signal.SIGTERM)  # a claimed batch is in hand, and Kafka will not answer
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0
    assert lines(errors)[-1]["event"] == "window ended"
    assert contour.run("select published, attempts from replication_queue") == [(False, 0)]
    assert contour.value(free) == 1


def test_status_for_people_and_for_programs(
    users: list[Contour], kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 3)")
    config = configuration(tmp_path, contour)
    shown = run("status", "--config", config)
    assert "contour a" in shown.stdout
    assert shown.returncode == 1, "no publisher is alive"
    status = json.loads(run("status", "--json", "--config", config).stdout)
    wanted = {
        "contour", "unpublished", "oldest_unpublished_seconds", "parked_publish", "parked_apply",
        "publishers", "appliers", "apply_lag_events", "processed_total", "failed_total",
        "conflicts_total",
    }  # fmt: skip
    assert wanted <= set(status)
    assert (status["contour"], status["unpublished"]) == ("a", 3)
    assert status["oldest_unpublished_seconds"] > 0


def test_cleanup_removes_old_published_rows_only(
    users: list[Contour], kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 10)")
    contour.publish()
    contour.run("insert into users (id) select generate_series(11, 14)")
    old = "now() - interval '8 days'"
    contour.run(f"update replication_queue set created_at = {old}")
    contour.run(f"update replication_queue set published_at = {old} where published and id % 2 = 0")
    contour.run(
        "update replication_queue set held = true, parked_at = now() - interval '8 days' "
        "where id = (select max(id) from replication_queue)"
    )
    done = run("cleanup", "--json", "--config", configuration(tmp_path, contour))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["published"] == 5
    left = contour.run(
        "select published, parked_at is not null, count(*) from replication_queue "
        "group by 1, 2 order by 1, 2"
    )
    assert left == [(False, False, 3), (False, True, 1), (True, False, 5)]


def test_parked_events_are_listed_and_retried(
    users: list[Contour], kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    a, b = users
    a.run("insert into users (id, name) values (1, 'x')")
    a.run(
        "update replication_queue set held = true, parked_at = now(), attempts = 5, "
        "last_error = 'refused'"
    )
    a_config, b_config = configuration(tmp_path, a), configuration(tmp_path, b)
    shown = run("parked", "list", "--config", a_config)
    assert '{"id":1}' in shown.stdout, shown.stderr
    assert a.publish().processed == 0
    assert run("parked", "retry", "1", "--config", a_config).returncode == 2
    done = run("parked", "retry", "1", "--side", "publish", "--config", a_config)
    assert "publish       1 event is due again" in done.stdout, done.stderr
    assert a.publish().processed == 1
    b.run("alter table users alter column name type int using null")
    assert b.apply().parked == 1
    (event,) = json.loads(run("parked", "list", "--json", "--config", b_config).stdout)
    assert (event["side"], event["reason"], event["table_name"]) == ("apply", "bad_value", "users")
    b.run("alter table users alter column name type text")
    undecided = run("parked", "retry", "--config", b_config)
    assert (undecided.returncode, "Nothing is chosen" in undecided.stderr) == (2, True)
    assert run("parked", "retry", "--all", "--config", b_config).returncode == 0
    assert b.apply().applied == 1
    assert "nothing is parked" in run("parked", "list", "--config", b_config).stdout


def test_a_parked_event_is_shown_and_discarded(users: list[Contour], tmp_path: Path) -> None:
    contour = users[0]
    contour.run(
        "insert into users (id, name, meta) values (1, 'some[red]one', '{\"deep\": [1.50]}')"
    )
    contour.run("update users set balance = 1 where id = 1")
    contour.run(
        "update replication_queue set held = true, attempts = 5, parked_at = now(), last_error = "
        "'MSG_SIZE_TOO_LARGE: Broker: Message size too large' where operation = 'INSERT'"
    )
    contour.run("update replication_queue set held = true where operation = 'UPDATE'")
    config = configuration(tmp_path, contour)

    def parked(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("parked", *arguments, "--config", config)

    (event,) = json.loads(parked("list", "--json").stdout)
    assert (event["reason"], event["behind"]) == ("MSG_SIZE_TOO_LARGE", 1)
    assert "someone" not in parked("list").stdout
    number = str(event["id"])
    shown = parked("show", "publish", number)
    assert shown.returncode == 0, shown.stderr
    for told in ("MSG_SIZE_TOO_LARGE", "raise kafka.max_message_bytes", "1 event of its key",
                 '{"id":1}', "INSERT", '"name": "some[red]one"', event["event_id"]):  # fmt: skip
        assert told in shown.stdout
    whole = json.loads(parked("show", "publish", number, "--json").stdout)
    assert whole["event"]["after"]["meta"] == '{"deep": [1.50]}'
    assert whole["size"] > 100
    because = ("--because", "too large for anyone")
    for refused, told in (
        (("show", "publish", "99"), "99"),
        (("show", "nowhere", number), "publish or apply"),
        (("discard", number, "--side", "publish"), "--because"),
        (("discard", *because), "Nothing is chosen"),
        (("discard", number, "--side", "publish", *because), "--yes"),
        (("discard", number, "99", "--side", "publish", "--yes", *because), "99"),
        (("discard", "--all", "--yes", "--because", " "), "--because is empty"),
    ):
        done = parked(*refused)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert contour.value("select count(*) from replication.discarded_events") == 0
    filters = ("--table", "users", "--reason", "MSG_SIZE_TOO_LARGE", "--yes")
    done = parked("discard", *filters, *because)
    assert done.stdout == "publish  users: 1 event is discarded\n", done.stderr
    assert contour.run("select event_id::text, because from replication.discarded_events") == [
        (event["event_id"], "too large for anyone")
    ]
    assert contour.run("select held from replication_queue") == [(False,)]
    assert "nothing is discarded" in parked("discard", *filters, *because).stdout


def test_published_events_are_sent_again(
    users: list[Contour], kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 30)")
    contour.run("update users set name = 'x' where id = 7")
    contour.publish()
    config = configuration(tmp_path, contour)

    def republish(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("republish", *arguments, "--config", config)

    counted = json.loads(republish("--since", "2h", "--dry-run", "--json").stdout)
    assert (counted["planned"], counted["tables"]["users"]["keys"]) == (31, 30)
    done = republish("--since", "2h", "--table", "users", "--key", '{"id": 7}')
    assert done.returncode == 0, done.stderr
    assert "contour a: 2 events of 1 keys to send again" in done.stdout
    assert "sent again: 2 events" in done.stdout
    assert "before the oldest event that is still there" in done.stderr
    whole = json.loads(republish("--all", "--json", "--rate", "1000").stdout)
    assert (whole["sent"], whole["ended_by"]) == (31, "done")
    for arguments, told in (
        ((), "Nothing is chosen"),
        (("--since", "yesterday"), "is no time"),
        (("--since", "2026-11-22T10:00:00"), "has no zone"),
        (("--since", "1h", "--until", "2h"), "not before --until"),
        (("--key", "7"), "no JSON object"),
    ):
        refused = republish(*arguments)
        assert (refused.returncode, told in refused.stderr) == (2, True), refused.stderr
    process = subprocess.Popen(
        [*COMMAND, "republish", "--all", "--rate", "1", "--config", config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while len(events_of(contour)) <= 31 + 2 + 31:
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 1, errors
    assert "Stopped between keys, in order" in errors
    assert "replication-pipeline republish --until" in errors
    assert contour.value("select count(*) from replication_queue where not published") == 0


@pytest.mark.parametrize(
    ("sections", "arguments", "status", "told"),
    [
        ({"publisher": {"batch": 1}}, ("status",), 2, "publisher.batch: no such key"),
        ({"contour": {"name": "b", "id": 2}}, ("status",), 2, "the database is contour a (id 1)"),
        ({"postgres": {"dsn": "host=127.0.0.1 port=1 dbname=x"}}, ("status",), 3, "connection"),
        ({"kafka": {"bootstrap_servers": "127.0.0.1:1"}}, ("setup-table", "users"), 3, "topic"),
        ({}, ("setup-table", "nowhere"), 2, "does not exist"),
        ({}, ("frobnicate",), 2, "No such command"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_status(
    users: list[Contour],
    kafka: EmbeddedKafka,
    tmp_path: Path,
    sections: dict[str, Any],
    arguments: tuple[str, ...],
    status: int,
    told: str,
) -> None:
    config = configuration(tmp_path, users[0], **sections)
    extra = () if arguments[0] == "frobnicate" else ("--config", config)
    done = run(*arguments, *extra)
    assert (done.returncode, told in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


def test_replication_runs_without_a_superuser(
    make_contours: MakeContours, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    """The workers connect as a role that is no more than a member of the two group roles."""
    a, b = make_contours(USERS, ["users"])
    a.run(
        "create role replicator_test login in role replication_publisher, replication_consumer, "
        "replication_monitor"
    )
    try:
        a.run("insert into users (id) values (1), (2); delete from users where id = 1")
        dsn = {"postgres": {"user": "replicator_test"}}
        for contour, command in ((a, "publish"), (b, "apply")):
            sections = {"postgres": {"dsn": contour.dsn} | dsn["postgres"]}
            config = configuration(tmp_path, contour, **sections)
            until = "--until-empty" if command == "publish" else "--until-caught-up"
            done = run(command, until, "--json", "--config", config)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["processed"] == 3
            for also in ("status", "cleanup"):
                checked = run(also, "--json", "--config", config)
                assert checked.returncode in (0, 1), checked.stderr
                assert "SQLSTATE" not in checked.stderr
        assert b.run("select id from users") == [(2,)]
    finally:
        for contour in (a, b):
            contour.run("drop owned by replicator_test")
        a.run("drop role replicator_test")
