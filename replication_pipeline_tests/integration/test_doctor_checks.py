"""Each check of ``doctor`` fires on what it is about, and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from psycopg.conninfo import make_conninfo

from replication_pipeline import doctor
from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.domain.findings import Finding
from replication_pipeline.domain.names import heartbeat_topic, topic_for
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.kafka.checks.subject import Subject
from replication_pipeline.kafka.client import admin_client
from replication_pipeline.kafka.doctor import CHECKS as KAFKA_CHECKS
from replication_pipeline.kafka.inspection import Cluster, TopicFacts
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.doctor import examine, open_others
from replication_pipeline.settings import CompareSettings, PostgresSettings, Settings
from replication_pipeline_tests.conftest import Contour, MakeContours
from replication_pipeline_tests.integration.commands import call_with
from replication_pipeline_tests.proxy import PoolersKeys
from replication_pipeline_tests.publishing import until, with_settings

pytestmark = pytest.mark.integration

ITEMS = "create table items (id bigint primary key, name text, amount int)"
SHOUT = (
    "create or replace function shout() returns trigger language plpgsql "
    "as 'begin return new; end';"
)


def beside(settings: Settings, *others: Contour) -> Settings:
    """Settings that say how to reach the other contours."""
    contours = {other.name: PostgresSettings(dsn=other.dsn) for other in others}
    return settings.model_copy(update={"compare": CompareSettings(contours=contours)})


def look(settings: Settings) -> list[Finding]:
    with (
        connect(settings, application_name="test", check=False) as connection,
        open_others(settings, "test") as others,
    ):
        return examine(connection, settings, others)


def told(settings: Settings) -> list[tuple[str, str]]:
    return [(f.check, f.severity) for f in look(settings) if f.severity != "good"]


@pytest.fixture
def pair(make_contours: MakeContours) -> list[Contour]:
    made = make_contours(ITEMS, ["items"], monitoring={})
    for contour in made:  # as on a developer's machine
        contour.settings = with_settings(contour.settings, kafka={"bootstrap_servers": "[::1]:1"})
    return made


def test_nothing_is_said_where_all_is_well(
    make_contours: MakeContours, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    a, b = make_contours(ITEMS, ["items"], monitoring={})
    findings = doctor.examine(beside(a.settings, b))
    assert [f for f in findings if f.severity != "good"] == []
    assert len(findings) == len({f.check for f in findings}) == 41
    said = call_with(a, tmp_path, "doctor", compare={"contours": {"b": {"dsn": b.dsn}}})
    assert said.exit_code == 0
    assert "contour a: nothing to mend; 41 checks are fine" in said.stdout
    assert len(said.stdout.splitlines()) == 7, "a line a group"
    b.run("alter table items drop column amount")
    said = call_with(a, tmp_path, "doctor", compare={"contours": {"b": {"dsn": b.dsn}}})
    assert said.exit_code == 1
    assert "→ in b: alter table items add column amount integer;" in said.stdout


@dataclass(frozen=True)
class Damage:
    """What is done, what is found then, and a part of the remedy. Where there is no ``undo`` the remedy
    is one that can be run.
    """

    damage: str
    check: str
    severity: str
    remedy: str
    undo: str = ""


HERE = [
    Damage(
        "alter table items disable trigger replication_capture_delete",
        "triggers",
        "mend",
        "alter table items enable trigger replication_capture_delete;",
    ),
    Damage(
        "alter table items enable always trigger replication_capture_insert",
        "triggers",
        "mend",
        "alter table items enable trigger replication_capture_insert;",
    ),
    Damage(
        "drop trigger replication_capture_update on items",
        "triggers",
        "mend",
        "select replication.setup_table_for_replication('items');",
    ),
    Damage(
        SHOUT + "create trigger shout before insert on items for each row execute function shout();"
        "alter table items enable replica trigger shout",
        "triggers",
        "notice",
        "alter table items enable trigger shout;",
        "drop trigger shout on items",
    ),
    Damage(
        SHOUT + "create trigger shout before insert on items for each row execute function shout()",
        "user triggers",
        "notice",
        "replicate the tables that they write to",
        "drop trigger shout on items",
    ),
    Damage(
        "alter table items alter replication_version drop default",
        "versions",
        "mend",
        "select replication.setup_table_for_replication('items');",
    ),
    Damage(
        "update replication.replicated_tables set fingerprint = 'other'",
        "columns",
        "notice",
        "setup_table_for_replication('items')",
        "select replication.setup_table_for_replication('items')",
    ),
    Damage(
        "alter event trigger replication_follow_ddl disable",
        "event trigger",
        "notice",
        "replication-pipeline init",
        "alter event trigger replication_follow_ddl enable",
    ),
    Damage(
        "alter table items drop constraint items_pkey",
        "keys",
        "mend",
        "alter table items add primary key",
        "alter table items add primary key (id)",
    ),
    Damage(
        "alter table items add constraint late exclude (id with =) deferrable",
        "constraints",
        "mend",
        "alter table items drop constraint late, add constraint late EXCLUDE USING btree (id WITH =);",
        "alter table items drop constraint late",
    ),
    Damage(
        "create unique index by_name on items (name)",
        "unique indexes",
        "notice",
        "select replication.setup_table_for_replication('items', displace => true);",
        "drop index by_name",
    ),
    Damage(
        "create table kinds (id int primary key);"
        "alter table items add constraint kind foreign key (amount) references kinds",
        "foreign keys",
        "notice",
        "replication-pipeline setup-table kinds",
        "drop table kinds cascade",
    ),
    Damage(
        "create table parts (item bigint constraint item references items)",
        "foreign keys",
        "notice",
        "replication-pipeline setup-table parts",
        "drop table parts",
    ),
    Damage(
        "create table others (id int primary key); select setup_table_for_replication('others')",
        "tables",
        "mend",
        "replication-pipeline remove-table others",
        "drop table others",
    ),
    Damage(
        "alter table items rename to things",
        "tables",
        "notice",
        "keep the former name",
        "alter table things rename to items",
    ),
    Damage(
        "select remove_table_from_replication('items')",
        "tables",
        "mend",
        "replication-pipeline setup-table items",
        "select setup_table_for_replication('items')",
    ),
    Damage(
        "update replication.contour set schema_version = 2",
        "versions of the server",
        "mend",
        "replication-pipeline init",
        "update replication.contour set schema_version = 3",
    ),
    Damage(
        "update replication.contour set schema_version = 99",
        "versions of the server",
        "mend",
        "upgrade this program",
        "update replication.contour set schema_version = 3",
    ),
    Damage(
        "update pg_database set datcollversion = '0' where datname = current_database()",
        "collation",
        "mend",
        "reindex",
        "update pg_database set datcollversion = pg_database_collation_actual_version(oid) "
        "where datname = current_database()",
    ),
    Damage(
        "begin; select pg_current_xact_id(); prepare transaction 'left over'",
        "transactions",
        "mend",
        "rollback prepared 'left over';",
    ),
    Damage(
        "alter table replication.processed_events set (autovacuum_enabled = off)",
        "vacuum",
        "mend",
        "alter table replication.processed_events reset (autovacuum_enabled);",
    ),
    Damage(
        "update replication.queue_ring set active_since = now() - interval '8 days'",
        "retention",
        "notice",
        "replication-pipeline cleanup",
        "update replication.queue_ring set active_since = now()",
    ),
    Damage(
        "update replication.heartbeat_log set trouble = 'clash'",
        "identity",
        "mend",
        "replication-pipeline contours admit a",
        "update replication.heartbeat_log set trouble = null",
    ),
    Damage(
        "update replication.heartbeat_log set trouble = 'gone_back'",
        "identity",
        "mend",
        "docs/recovery.md",
        "update replication.heartbeat_log set trouble = null",
    ),
]


def test_damage_here_is_found(pair: list[Contour]) -> None:
    """One after the other, as a contour of its own for each takes long; each is undone."""
    a, _ = pair
    settings = with_settings(a.settings, monitoring={"snapshot_warning": timedelta()})
    for case in HERE:
        a.run(case.damage)
        found = [f for f in look(settings) if f.severity != "good"]
        assert [(f.check, f.severity) for f in found] == [(case.check, case.severity)], case
        assert case.remedy in found[0].remedy, case
        a.run(case.undo or found[0].remedy)
        assert told(settings) == [], case


def test_what_the_profile_lets_pass(pair: list[Contour]) -> None:
    a, b = pair

    def said(settings: Settings) -> list[tuple[str, str]]:
        found = [f for f in look(settings) if f.check == "profile"]
        return [(f.severity, f"{f.message} → {f.remedy}") for f in found]

    def expect(settings: Settings, *expected: str) -> None:
        found = said(settings)
        assert [severity for severity, _ in found] == ["notice"] * len(expected), found
        for (_, text), part in zip(found, expected, strict=True):
            assert part in text

    ((severity, _),) = said(beside(a.settings, b))
    assert severity == "good", "a developer's machine"
    away = a.settings.kafka.model_copy(
        update={"bootstrap_servers": "k1.example:9093, 127.0.0.1:9092, k2.example:9093"}
    )
    expect(
        a.settings.model_copy(update={"kafka": away}),
        "k1.example:9093, k2.example:9093 are not on this machine: connections need be neither "
        "encrypted nor checked → set profile: production",
    )
    insecure = beside(a.settings, b).model_copy(update={"profile": "production", "insecure": True})
    in_the_clear = "prefer: rows and the password's proof may travel in the clear → set sslmode: "
    expect(
        insecure,
        f"insecure: true lets postgres.sslmode pass: {in_the_clear}",
        f"insecure: true lets compare.contours.b.sslmode pass: {in_the_clear}",
        "lets kafka.security_protocol pass: plaintext sends rows in the clear → set ssl or sasl_ssl; "
        "then take insecure out",
    )


def heard(contour: Contour, name: str, id_: int, **columns: Any) -> None:
    values = {"state": "active", "ahead": [0.0], "clock_ahead": 0.0, "age": 0} | columns
    contour.run(
        "insert into replication.contours (name, id, incarnation, state, sequence, last_beat, "
        "last_heard, ahead, clock_ahead) values (%s, %s, gen_random_uuid(), %s, 1, "
        "now() - %s * interval '1 s', 0, %s, %s)",
        name, id_, values["state"], values["age"], values["ahead"], values["clock_ahead"],
    )  # fmt: skip


def test_what_heartbeats_tell(pair: list[Contour]) -> None:
    a, b = pair
    settings = beside(a.settings, b)
    heard(a, "a", 1)
    heard(a, "b", 2)
    assert told(settings) == []
    (clocks,) = [f.message for f in look(settings) if f.check == "clocks"]
    assert clocks == "2 contours' clocks are within 0 ms"
    for change, check, severity in (
        ("ahead = '{2}', clock_ahead = 2", "clocks", "notice"),
        ("ahead = '{90}', clock_ahead = 90", "clocks", "mend"),
        ("last_beat = now() - interval '1 hour'", "heartbeats", "notice"),
        ("state = 'fenced'", "heartbeats", "mend"),
        ("id = 1", "identity", "mend"),
    ):
        a.run(f"update replication.contours set {change} where name = 'b'")
        assert told(settings) == [(check, severity)], change
        a.run("delete from replication.contours where name = 'b'")
        heard(a, "b", 2)
    heard(a, "c", 3)
    assert told(settings) == [("reach", "notice")]
    assert told(with_settings(settings, monitoring={"heartbeat_interval": timedelta()}))[0] == (
        "heartbeats",
        "notice",
    )


BESIDE = [
    Damage(
        "alter table items add column note text",
        "drift",
        "mend",
        "in a: alter table items add column note text;",
        "alter table items drop column note",
    ),
    Damage(
        "alter table items alter amount type bigint",
        "drift",
        "mend",
        "in a: alter table items alter column amount type bigint;",
        "alter table items alter amount type int",
    ),
    Damage(
        "alter table items alter name set not null",
        "drift",
        "notice",
        "in a: alter table items alter column name set not null;",
        "alter table items alter name drop not null",
    ),
    Damage(
        "select setup_table_for_replication('items', displace => true)",
        "drift",
        "mend",
        "the same under tables: items:",
        "select setup_table_for_replication('items', displace => false)",
    ),
    Damage(
        "select remove_table_from_replication('items')",
        "drift",
        "mend",
        "in b: replication-pipeline setup-table items",
        "select setup_table_for_replication('items')",
    ),
    Damage(
        "update replication.contour set id = 1",
        "names and ids",
        "mend",
        "install one of them anew",
        "update replication.contour set id = 2",
    ),
    Damage(
        "update replication.contour set name = 'z'",
        "names and ids",
        "mend",
        "give each contour's own database its name",
        "update replication.contour set name = 'b'",
    ),
]


def test_damage_beside_is_found(pair: list[Contour], postgres: EmbeddedPostgres) -> None:
    a, b = pair
    settings = beside(a.settings, b)
    for case in BESIDE:
        b.run(case.damage)
        found = [f for f in look(settings) if f.severity != "good"]
        assert [(f.check, f.severity) for f in found] == [(case.check, case.severity)], case
        assert case.remedy in found[0].remedy, case
        b.run(case.undo)
    incarnation = a.value("select incarnation from replication.contour")
    own = b.value("select incarnation from replication.contour")
    b.run("update replication.contour set incarnation = %s", incarnation)
    assert told(settings) == [("names and ids", "mend")]
    b.run("update replication.contour set incarnation = %s", own)
    database = b.value("select current_database()")
    b.run("update pg_database set datcollate = 'C.utf8' where datname = %s", database)
    assert told(settings) == [("databases", "notice")]
    away = PostgresSettings(host="127.0.0.1", port=1)
    empty = PostgresSettings(dsn=postgres.create_database("doctor_beside"))
    for there, remedy in ((away, "compare.contours.b"), (empty, "replication-pipeline init")):
        gone = settings.model_copy(update={"compare": CompareSettings(contours={"b": there})})
        assert told(gone) == [("reach", "notice")]
        (reach,) = [f for f in look(gone) if f.check == "reach"]
        assert remedy in reach.remedy


def test_sequences_that_collide_are_set_apart(
    make_contours: MakeContours, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    ddl = (
        "create table items (id bigint generated by default as identity primary key, name text); "
        "create table notes (id serial primary key); create table others (id bigint primary key)"
    )
    a, b = make_contours(ddl, ["items", "notes", "others"])
    everywhere = {
        a.name: {"contours": {"b": {"dsn": b.dsn}}},
        b.name: {"contours": {"a": {"dsn": a.dsn}}},
    }

    def sequences() -> list[tuple[str, bool]]:
        found = [f for f in look(beside(a.settings, b)) if f.check == "sequences"]
        return [(f.severity, f.fixable) for f in found]

    a.run("insert into items (name) select 'x' from generate_series(1, 30)")
    assert sequences() == [("notice", True), ("notice", True)], "only one of them is used yet"
    b.run("insert into items (name) values ('y'); insert into notes default values")
    a.run("insert into notes default values")
    assert sequences() == [("mend", True), ("mend", True)]
    fixed = call_with(a, tmp_path, "doctor", "--fix", "sequences", compare=everywhere["a"])
    assert "done alter sequence items_id_seq increment by 10" in fixed.stdout, fixed.output
    assert sequences() == [("mend", False), ("mend", False)], "b still counts as it did"
    call_with(b, tmp_path, "doctor", "--fix", "sequences", compare=everywhere["b"])
    assert sequences() == [("good", False)]
    for contour in (a, b):
        contour.run("insert into items (name) select 'z' from generate_series(1, 50)")
        contour.run("insert into notes select from generate_series(1, 50)")
    for table in ("items", "notes"):
        keys = [{key for (key,) in c.run(f"select id from {table} where id > 40")} for c in (a, b)]
        assert len(keys[0]) == len(keys[1]) == 50
        assert not keys[0] & keys[1]
    a.run("drop role if exists stranger")
    a.run("create role stranger login in role replication_publisher, replication_consumer")
    a.run("alter sequence items_id_seq increment by 1")
    dsn = make_conninfo(a.dsn, user="stranger")
    not_his = call_with(
        a, tmp_path, "doctor", "--fix", "sequences", compare=everywhere["a"], postgres={"dsn": dsn}
    )
    assert isinstance(not_his.exception, RefusedError)
    assert "must be owner of" in not_his.exception.message
    assert "run it as the owner of the tables: alter sequence" in str(not_his.exception.remedy)
    a.run("alter sequence items_id_seq increment by 10; drop owned by stranger; drop role stranger")
    again = call_with(a, tmp_path, "doctor", "--fix", "sequences", compare=everywhere["a"])
    assert "sequences: nothing that can be run here" in again.stdout
    unknown = call_with(a, tmp_path, "doctor", "--fix", "colour")
    assert unknown.exception is not None
    assert "doctor has no check colour" in str(unknown.exception)


def test_a_role_that_sees_little_says_so(pair: list[Contour]) -> None:
    a, _ = pair
    a.run("drop role if exists shortsighted")
    a.run("create role shortsighted login in role replication_publisher, replication_consumer")
    try:
        settings = with_settings(a.settings, postgres={"user": "shortsighted"})
        assert told(settings) == [("transactions", "notice")]
        (remedy,) = [f.remedy for f in look(settings) if f.check == "transactions"]
        a.run(remedy)
        assert told(settings) == []
    finally:
        a.run("drop owned by shortsighted; drop role shortsighted")


def test_the_way_to_the_database(pair: list[Contour], monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = pair
    with PoolersKeys(a.app.info.port) as pooler:
        dsn = make_conninfo(a.dsn, port=pooler.port)
        behind = with_settings(a.settings, postgres={"dsn": PostgresSettings(dsn=dsn).dsn})
        assert told(behind) == [("pooler", "notice")]
    monkeypatch.setattr(
        "replication_pipeline.postgres.checks.role.is_local", lambda host: host != "127.0.0.1"
    )
    assert told(a.settings) == [("tls", "notice")]


def test_dead_rows_and_short_retention(pair: list[Contour]) -> None:
    a, _ = pair
    short = with_settings(a.settings, cleanup={"processed_events": timedelta(days=1)})
    assert told(short) == [("retention", "mend")]
    few = with_settings(a.settings, monitoring={"dead_rows_warning": 10})
    with a.session(autocommit=True) as session:
        session.execute(
            "alter table replication.processed_events set (autovacuum_enabled = off);"
            "insert into replication.processed_events "
            "select gen_random_uuid() from generate_series(1, 50);"
            "delete from replication.processed_events; select pg_stat_force_next_flush()"
        )
        session.execute("alter table replication.processed_events reset (autovacuum_enabled)")
    until(lambda: told(few) == [("vacuum", "notice")], "the dead rows to be counted")


@contextmanager
def configured(settings: Settings, topic: str, **changes: str) -> Iterator[None]:
    """With other settings of a topic."""
    admin = admin_client(settings)

    def change(kind: Any) -> None:
        resource = ConfigResource(
            ConfigResource.Type.TOPIC,
            topic,
            incremental_configs=[
                ConfigEntry(name.replace("_", "."), value, incremental_operation=kind)
                for name, value in changes.items()
            ],
        )
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(20)

    change(AlterConfigOpType.SET)
    yield
    change(AlterConfigOpType.DELETE)


def test_kafka_as_it_is_found(make_contours: MakeContours, kafka: EmbeddedKafka) -> None:
    (a,) = make_contours(ITEMS, ["items"], count=1, monitoring={})
    settings = a.settings
    topic = topic_for("items", prefix=settings.kafka.topic_prefix)

    def kafkas(settings: Settings = settings) -> list[tuple[str, str]]:
        found = doctor.examine(settings)
        return [(f.check, f.severity) for f in found if f.severity != "good"]

    # What is deleted falls back to the broker's default, which is other than set-up's own.
    for setting, value, expected in (
        ("min_insync_replicas", "2", [("min.insync.replicas", "mend")]),
        ("cleanup_policy", "compact", [("cleanup.policy", "mend")]),
        ("retention_bytes", "1000000", [("topic retention", "notice")]),
    ):
        with configured(settings, topic, **{setting: value}):
            until(lambda expected=expected: kafkas() == expected, f"{setting} to be found")  # type: ignore[misc]
    until(lambda: kafkas() == [], "all to be well again")
    with configured(settings, topic, retention_ms="60000"):
        until(lambda: kafkas() == [("topic retention", "mend")], "the retention to be found")
    with configured(settings, topic, max_message_bytes="2000", retention_ms="-1"):
        a.run("insert into items (id, name) values (1, repeat('x', 5000))")
        notices = [("topic retention", "notice")] * 2
        until(lambda: kafkas() == [*notices, *[("event sizes", "mend")] * 2], "sizes to be found")
        (_, sampled) = [f.message for f in doctor.examine(settings) if f.check == "event sizes"]
        assert "of 1 sampled" in sampled
    beats = heartbeat_topic(prefix=settings.kafka.topic_prefix)
    with configured(settings, topic, max_message_bytes="64000000", retention_ms="604800000"):
        with configured(settings, beats, retention_ms="60000", message_timestamp_type="CreateTime"):
            until(lambda: kafkas() == [("heartbeat topic", "mend")] * 2, "it to be found")
        with configured(
            settings, beats, retention_ms="1209600000", message_timestamp_type="LogAppendTime"
        ):
            wider = with_settings(settings, kafka={"partitions": 6})
            until(lambda: kafkas(wider) == [("partitions", "notice")], "partitions to be missed")
            assert kafkas(with_settings(settings, kafka={"partitions": 2})) == [
                ("partitions", "notice")
            ]
            huge = with_settings(settings, kafka={"max_message_bytes": 2_000_000_000})
            assert kafkas(huge) == [("event sizes", "mend")] * 2
            a.run(
                "insert into replication.consumer_offsets (topic, partition, next_offset) "
                "values (%s, 0, 1000)",
                topic,
            )
            assert kafkas() == [("positions", "mend")]
            two = settings.model_copy(update={"tables": settings.tables | {"gone": None}})
            found = [f for f in doctor.examine(two) if f.check == "topics"]
            assert [f.remedy for f in found] == ["replication-pipeline setup-table gone"]


def test_kafka_that_is_away_costs_its_own_checks_only(users: list[Contour]) -> None:
    a, _ = users
    away = with_settings(a.settings, kafka={"bootstrap_servers": "127.0.0.1:1"})
    found = doctor.examine(away)
    assert [(f.check, f.group) for f in found if f.severity == "mend"] == [("brokers", "kafka")]
    assert len(found) > 25


FACTS = TopicFacts(True, 3, 3, 3, 0, frozenset(), {"min.insync.replicas": "2"})


@pytest.mark.parametrize(
    ("facts", "brokers", "expected"),
    [
        (FACTS, 3, []),
        (TopicFacts(True, 3, 1, 1, 0, frozenset(), {}), 3, ["copies mend"]),
        (
            TopicFacts(True, 3, 3, 2, 0, frozenset(), {"min.insync.replicas": "2"}),
            3,
            ["copies notice"],
        ),
        (
            TopicFacts(True, 3, 3, 3, 0, frozenset(), {"min.insync.replicas": "1"}),
            3,
            ["min.insync.replicas mend"],
        ),
        (
            TopicFacts(True, 3, 3, 3, 0, frozenset(), {"min.insync.replicas": "3"}),
            3,
            ["min.insync.replicas notice"],
        ),
        (TopicFacts(True, 3, 3, 3, 1, frozenset(), {}), 3, ["partitions mend"]),
        (TopicFacts(True, 3, 3, 3, 0, frozenset({"WRITE"}), {}), 3, ["kafka rights mend"]),
        (TopicFacts(True, 3, 3, 3, 0, frozenset(), None), 3, ["kafka rights notice"]),
        (TopicFacts(False, 3, 3, 3, 0, frozenset(), {}), 3, ["brokers notice"]),
        (FACTS, 2, ["brokers notice"]),
    ],
)
def test_what_one_broker_can_not_show(facts: TopicFacts, brokers: int, expected: list[str]) -> None:
    """Verdicts on clusters of several brokers, and on what these allow."""
    settings = Settings(
        contour={"name": "a", "id": 1},
        postgres={"dsn": "host=nowhere"},
        kafka={
            "bootstrap_servers": "kafka.example:9093",
            "security_protocol": "ssl",
            "partitions": 3,
        },
        tables=["items"],
    )
    beats = TopicFacts(True, 1, 3, 3, 0, frozenset(), {})
    cluster = Cluster(brokers, {"items_changes": facts, "replication_heartbeats": beats})
    subject = Subject(settings, cluster)
    found = [f for check in KAFKA_CHECKS for f in check.findings(subject) if f.severity != "good"]
    assert [f"{f.check} {f.severity}" for f in found] == expected
    small = Subject(settings, Cluster(3, {}, {"socket.request.max.bytes": "1000"}))
    (size,) = [f for c in KAFKA_CHECKS for f in c.findings(small) if f.check == "event sizes"]
    assert size.severity == "mend"
    plain = with_settings(settings, kafka={"security_protocol": "plaintext"})
    (tls,) = [
        f for c in KAFKA_CHECKS for f in c.findings(Subject(plain, cluster)) if "tls" in f.check
    ]
    assert tls.severity == "notice"
