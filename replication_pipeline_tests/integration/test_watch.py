"""What the checks see of a real database, and what ``alert_sensor`` makes of it: history in Dagster's
storage, messages at a real receiver, and silence about everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import yaml

from replication_pipeline.defs.alerts import alert_sensor
from replication_pipeline.defs.checks import asset_of
from replication_pipeline.defs.deep import setup_check
from replication_pipeline.defs.resources import AlertsResource, PostgresResource
from replication_pipeline.defs.watched import contour_checks
from replication_pipeline.domain.watch import Parked, Watch
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.settings import load_settings
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.receivers import HttpReceiver, http_receiver

pytestmark = pytest.mark.integration

QUICK = {"alert_after": "0s", "alert_clear_after": "0s", "check_interval": "1h"}


@dataclass
class Watcher:
    """``alert_sensor`` over one contour, with the instance that keeps what it stores."""

    contour: Contour
    instance: dg.DagsterInstance
    config: Path
    cursor: str | None = None
    texts: list[str] = field(default_factory=list)

    @property
    def postgres(self) -> PostgresResource:
        return PostgresResource(config_path=str(self.config))

    def configure(self, receiver: HttpReceiver | None = None, **changes: Any) -> None:
        monitoring: dict[str, Any] = QUICK | {"heartbeat_interval": 0} | changes
        if receiver is not None:
            monitoring["webhook"] = {"url": receiver.url}
        content = {
            "contour": {"name": self.contour.name, "id": self.contour.settings.contour.id},
            "postgres": {"dsn": self.contour.dsn},
            "kafka": {"bootstrap_servers": "unused:1"},
            "tables": ["users"],
            "monitoring": monitoring,
        }
        self.config.write_text(yaml.safe_dump(content), encoding="utf-8")

    def tick(self) -> str:
        """As the daemon does it: evaluate, store the events, keep the cursor."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = alert_sensor(
            context,
            postgres=self.postgres,
            alerts=AlertsResource(config_path=str(self.config)),
        )
        assert isinstance(result, dg.SensorResult)
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        self.cursor = result.cursor
        assert isinstance(result.skip_reason, dg.SkipReason | str)
        text = str(getattr(result.skip_reason, "skip_message", result.skip_reason))
        self.texts.append(text)
        return text

    def look(self) -> Watch:
        return self.postgres.watch()

    def history(self, check: str, table: str | None = None) -> list[bool]:
        """Passed or not, the oldest first."""
        key = dg.AssetCheckKey(asset_of(self.contour.name, table), check)
        records = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
        found = [record.evaluation for record in reversed(records)]
        return [evaluation.passed for evaluation in found if evaluation is not None]


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        yield made


@pytest.fixture
def watcher(users: list[Contour], tmp_path: Path) -> Iterator[Watcher]:
    with dg.DagsterInstance.ephemeral() as instance:
        made = Watcher(users[0], instance, tmp_path / "a.yaml")
        made.configure()
        users[0].run(
            "insert into replication.workers (instance, role) "
            "values ('p', 'publisher'), ('c', 'applier')"
        )
        yield made


def told(receiver: HttpReceiver) -> list[str]:
    return [f"{body['alert']} {body['level']}" for body in receiver.bodies]


def test_a_lag_alarm_from_warning_to_over(watcher: Watcher, receiver: HttpReceiver) -> None:
    watcher.configure(receiver)
    contour = watcher.contour

    def age(seconds: float) -> None:
        contour.run(
            "update replication.replication_queue set created_at = clock_timestamp() - "
            "make_interval(secs => %s)",
            seconds,
        )

    contour.run("insert into users (id) select generate_series(1, 3)")
    assert watcher.tick() == "nothing to tell"
    for seconds in (11, 12, 31, 32, 33):
        age(seconds)
        watcher.tick()
    assert "publish_lag CRITICAL for" in watcher.texts[-1]
    contour.run("update replication.replication_queue set published = true, published_at = now()")
    assert watcher.tick() == watcher.tick() == "nothing to tell"
    assert told(receiver) == ["publish_lag warning", "publish_lag critical", "publish_lag ok"]
    assert len({body["id"] for body in receiver.bodies}) == 1
    assert "The oldest event has waited for 31" in receiver.bodies[1]["text"]


def test_no_publisher_is_alive(watcher: Watcher, receiver: HttpReceiver) -> None:
    watcher.configure(receiver)
    watcher.tick()
    watcher.contour.run(
        "update replication.workers set heartbeat_at = now() - interval '1 minute' "
        "where role = 'publisher'"
    )
    watcher.tick()
    watcher.tick()
    watcher.contour.run("update replication.workers set heartbeat_at = now()")
    watcher.tick()
    assert told(receiver) == ["publisher_down critical", "publisher_down ok"]


def test_a_receiver_that_is_away_shows_in_the_tick_and_is_told_later(
    watcher: Watcher, receiver: HttpReceiver
) -> None:
    watcher.configure(receiver)
    receiver.status = 503
    watcher.contour.run("delete from replication.workers")
    text = watcher.tick()
    assert "publisher_down CRITICAL" in text
    assert "webhook: 127.0.0.1 answered 503" in text
    before = len(receiver.requests)
    assert "answered" not in watcher.tick(), "it is left in peace for some seconds"
    assert len(receiver.requests) == before


def test_verdicts_are_stored_when_they_change(watcher: Watcher) -> None:
    for _ in range(3):
        watcher.tick()
    assert watcher.history("parked_events") == [True]
    assert watcher.history("queue_health") == watcher.history("error_rate") == [True]
    assert watcher.history("apply_lag", "users") == [True]
    watcher.contour.run("insert into users (id) values (1), (2)")
    watcher.contour.run(
        "update replication.replication_queue set held = true, parked_at = now() where record_key = %s",
        '{"id":1}',
    )
    watcher.tick()
    watcher.tick()
    assert watcher.history("parked_events") == [True, False]
    assert watcher.history("queue_health") == [True]


def test_a_database_that_is_away_or_another_one_is_an_alert(
    watcher: Watcher, receiver: HttpReceiver, users: list[Contour]
) -> None:
    watcher.configure(receiver)
    watcher.tick()
    text = watcher.config.read_text()
    watcher.config.write_text(text.replace("port=", "port=1"), encoding="utf-8")
    assert "contour_unknown CRITICAL" in watcher.tick()
    assert watcher.history("queue_health") == [True, False], "an old green mark would be a lie"
    watcher.config.write_text(text, encoding="utf-8")
    watcher.tick()
    other = text.replace(watcher.contour.dsn, users[1].dsn)
    assert other != text
    watcher.config.write_text(other, encoding="utf-8")
    watcher.tick()
    assert told(receiver) == [
        "contour_unknown critical",
        "contour_unknown ok",
        "contour_unknown critical",
    ]
    assert "the database is contour b" in receiver.bodies[-1]["text"]


def test_what_is_parked_is_seen_by_side_table_and_reason(watcher: Watcher) -> None:
    contour = watcher.contour
    contour.run("insert into users (id) select generate_series(1, 3)")
    contour.run(
        "update replication.replication_queue set held = true, "
        "parked_at = clock_timestamp() - interval '2 minutes' where id % 3 = 0"
    )
    contour.run(
        "insert into replication.parked_events "
        "(topic, partition, kafka_offset, table_name, reason, event, parked_at) "
        "select 't', 0, n, case when n < 5 then 'users' end, "
        "  case when n < 5 then 'missing_parent' else 'malformed' end, '', "
        "  clock_timestamp() - n * interval '10 seconds' from generate_series(1, 6) n"
    )
    seen = [replace(p, oldest=round(p.oldest, -1)) for p in watcher.look().parked]
    assert seen == [
        Parked("apply", "", "malformed", 2, 60.0),
        Parked("apply", "users", "missing_parent", 4, 40.0),
        Parked("publish", "users", "refused by Kafka", 1, 120.0),
    ]


def test_what_holds_the_queue_back_is_named(watcher: Watcher) -> None:
    assert watcher.look().queue.holder == ""
    session = watcher.contour.session(application_name="somebody's report")
    session.execute("set transaction isolation level repeatable read")
    session.execute("select 1")
    seen = watcher.look().queue
    assert "somebody's report" in seen.holder
    assert seen.oldest_snapshot > 0
    assert seen.sees_everybody
    session.rollback()
    session.execute("insert into users (id) values (1)")
    session.execute("prepare transaction 'forgotten'")
    try:
        assert watcher.look().queue.holder.startswith("prepared transaction forgotten")
    finally:
        watcher.contour.run("rollback prepared 'forgotten'")
    assert watcher.look().queue.holder == ""


def test_positions_that_do_not_move_are_seen(watcher: Watcher) -> None:
    watcher.contour.run(
        "insert into replication.consumer_offsets values "
        "('users_changes', 0, 5, 8, now() - interval '2 minutes'), "
        "('users_changes', 1, 7, 7, now() - interval '3 minutes')"
    )
    (lag,) = watcher.look().lags
    assert (lag.topic, lag.events, round(lag.still, -1)) == ("users_changes", 3, 120.0)
    watcher.tick()
    assert watcher.history("apply_lag", "users") == [False]


def test_services_need_no_superuser_to_look(watcher: Watcher) -> None:
    contour = watcher.contour
    contour.run("drop role if exists looker")
    contour.run("create role looker login in role replication_publisher, replication_consumer")
    text = watcher.config.read_text()
    dsn = psycopg.conninfo.make_conninfo(contour.dsn, user="looker")
    watcher.config.write_text(text.replace(contour.dsn, dsn), encoding="utf-8")
    assert not watcher.look().queue.sees_everybody
    assert watcher.tick() == "nothing to tell"
    contour.run("drop role looker")


def test_every_check_can_be_executed_on_demand_and_deep_ones_are_told(
    watcher: Watcher,
    receiver: HttpReceiver,
    kafka: EmbeddedKafka,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In real runs of the instance."""
    monkeypatch.setattr("replication_pipeline.defs.alerts.DEEP_EVERY", 0.0)
    watcher.configure(receiver)
    text = watcher.config.read_text().replace("unused:1", kafka.bootstrap_servers)
    watcher.config.write_text(text, encoding="utf-8")
    settings = load_settings(watcher.config)
    ensure_topics(settings, list(settings.tables))
    watcher.contour.run(
        "update replication.workers set processed = 95, failed = 5 where role = 'publisher'"
    )
    watcher.contour.run("alter table users disable trigger replication_capture_insert")
    loaded = dg.Definitions(
        asset_checks=[contour_checks(settings), setup_check(settings)],
        resources={"postgres": watcher.postgres},
    )
    job = loaded.resolve_implicit_global_asset_job_def()
    watcher.tick()
    assert "setup warning" not in told(receiver), "nobody has looked yet"
    assert job.execute_in_process(instance=watcher.instance).success
    assert watcher.history("error_rate")[-1] is False
    assert watcher.history("setup") == [False]
    assert watcher.history("parked_events")[-1] is watcher.history("heartbeat")[-1] is True
    assert watcher.history("apply_lag", "users")[-1] is True
    watcher.tick()
    watcher.contour.run("alter table users enable trigger replication_capture_insert")
    watcher.tick()
    assert job.execute_in_process(instance=watcher.instance).success
    watcher.tick()
    watcher.tick()
    messages = [body for body in receiver.bodies if body["alert"] == "setup"]
    assert [body["level"] for body in messages] == ["warning", "ok"]
    assert "replication_capture_insert of users" in messages[0]["text"]


def test_until_when_another_contours_changes_have_arrived(watcher: Watcher) -> None:
    """By offsets: the newest of its rounds whose ends are read here. By times: each by its own clock,
    b's being 100 s ahead of the broker's and this one's 7 s.
    """
    contour = watcher.contour
    contour.run(
        "insert into replication.contours (name, id, incarnation, state, sequence, last_beat, "
        "last_heard, ahead, clock_ahead) "
        "select n, i, gen_random_uuid(), 'active', 1, now() - interval '17 seconds', 0, "
        "array[c::float8], c from (values ('a', 1, 7), ('b', 2, 100), ('c', 3, 0)) v(n, i, c)"
    )
    contour.run(
        "insert into replication.contour_rounds select 'b', o, now(), "
        "now() - make_interval(secs => age) + interval '93 seconds', '{}', ends "
        "from (values (10, 300, '{\"users_changes\": [4, 2]}'::jsonb), "
        '  (11, 200, \'{"users_changes": [5, 3], "not_here": [9]}\'), '
        "  (12, 100, '{\"users_changes\": [6, 3]}')) r(o, age, ends)"
    )

    def pairs() -> dict[str, tuple[float, float | None]]:
        return {
            pair.contour: (
                round(pair.silent, -1),
                None if pair.arrived is None else round(pair.arrived, -1),
            )
            for pair in watcher.look().pairs
        }

    assert pairs() == {"a": (10, None), "b": (10, None), "c": (10, None)}
    contour.run(
        "insert into replication.consumer_offsets values ('users_changes', 0, 5, 6), "
        "('users_changes', 1, 3, 3)"
    )
    assert pairs()["b"] == (10, 200)
    contour.run("update replication.consumer_offsets set next_offset = 6 where partition = 0")
    assert pairs()["b"] == (10, 100)
