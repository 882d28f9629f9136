"""``convergence``: rows that differ are found, rows that are under way are none of them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import yaml

from replication_pipeline import definitions
from replication_pipeline.defs.deep import converged, last_verdicts
from replication_pipeline.domain.comparison import Comparison
from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.postgres.compare_contours import open_contours
from replication_pipeline.postgres.comparison import Options, compare_table
from replication_pipeline.postgres.watch import look
from replication_pipeline.settings import PostgresSettings, Settings, load_settings
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours
from replication_pipeline_tests.publishing import publishing, until, with_settings

pytestmark = pytest.mark.integration

OPTIONS = {
    "monitoring": {"heartbeat_interval": "200ms", "heartbeat_warning": "20s"},
    "consumer": {"poll_interval": "50ms"},
    "publisher": {"poll_interval": "50ms"},
}


@pytest.fixture
def contours(make_contours: MakeContours, kafka: EmbeddedKafka) -> list[Contour]:
    return make_contours(USERS, ["users"], **OPTIONS)


def comparing(contours: list[Contour], patience: str = "30s") -> Settings:
    """The first one's settings, with the others to compare with."""
    first, *others = contours
    compare = {
        "contours": {c.name: PostgresSettings(dsn=c.dsn) for c in others},
    }
    settings = with_settings(first.settings, compare=compare)
    return settings.model_copy(
        update={"compare": type(settings.compare)(**(compare | {"patience": patience}))}
    )


@pytest.fixture
def alive(contours: list[Contour]) -> Iterator[list[Contour]]:
    """With publishers, appliers and heartbeats."""
    with ExitStack() as stack:
        for contour in contours:
            stack.enter_context(publishing(contour.settings))
            stack.enter_context(applying(contour.settings))
        yield contours


def compare(
    contours: list[Contour], patience: str = "30s", table: str = "users", **options: Any
) -> Comparison:
    settings = comparing(contours, patience)
    with open_contours(settings) as connections:
        return compare_table(connections, table, settings, Options(**options))


def test_rows_under_way_are_not_reported_and_rows_that_differ_are(alive: list[Contour]) -> None:
    a, b = alive
    a.run("insert into users (id, name) select n, 'a' from generate_series(1, 500) n")
    b.run("insert into users (id, name) select n, 'b' from generate_series(501, 900) n")
    stop = threading.Event()

    def write(contour: Contour) -> None:
        with contour.session(autocommit=True) as session:
            for key in itertools.cycle((7, 8, 9, 100 + contour.settings.contour.id)):
                # One row at a time: a writer of several may fall into a deadlock with the applier.
                session.execute("update users set name = md5(random()::text) where id = %s", [key])
                if stop.is_set():
                    return

    writers = [threading.Thread(target=write, args=(contour,)) for contour in alive]
    for writer in writers:
        writer.start()
    try:
        assert compare(alive).equal
        # Past the triggers, as after a restore: one other value, one row less, one version.
        b.run("set session_replication_role = replica")
        b.run("update users set name = 'else' where id = 20")
        b.run("delete from users where id = 21")
        b.run("update users set replication_version = replication_version - 1 where id = 22")
        b.run("reset session_replication_role")
        found = compare(alive)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert [(d.key, d.columns) for d in found.differences] == [
        ('{"id":20}', ("name",)),
        ('{"id":21}', ()),
        ('{"id":22}', ()),
    ]
    assert (found.settled, found.complete, found.most_rows) == (True, True, 900)

    until(
        lambda: [c.value("select count(*) from replication.contours") for c in alive] == [2, 2],
        "both to hear of each other",
    )
    with open_contours(comparing(alive)) as connections:
        pairs = {pair.contour: pair for pair in look(connections["a"], a.settings).pairs}
    assert set(pairs) == {"a", "b"}
    for pair in pairs.values():
        assert pair.state == "active"
        assert pair.silent < 10
        assert pair.arrived is not None
        assert pair.arrived < 10, "what the other one wrote until a moment ago is here"


def test_without_an_applier_nothing_is_known(contours: list[Contour]) -> None:
    """A row that is still in the queue is no difference."""
    contours[0].run("insert into users (id) values (1)")
    found = compare(contours, "0s")
    assert (found.differences, found.settled, found.unsettled, found.rows) == (
        (),
        False,
        1,
        {"a": 1, "b": 0},
    )
    assert {(lag.contour, lag.source) for lag in found.lags} == {("b", "a"), ("a", "b")}
    (finding,) = converged(comparing(contours, "0s"), ["users"])
    assert (finding.verdict, finding.table) == ("unknown", "users")
    assert "under way" in finding.description


def test_columns_that_do_not_travel_and_their_order_make_no_difference(
    make_contours: MakeContours,
) -> None:
    a, b = make_contours(USERS, {"users": {"exclude": ["meta"]}}, monitoring={})
    b.run("alter table users drop column name, add column name text")
    for contour, meta in ((a, "1"), (b, "2")):
        contour.run("set session_replication_role = replica")
        contour.run(
            "insert into users (id, email, name, meta, replication_version) "
            "values (1, 'e', 'n', %s, 5), (2, null, null, null, 6)",
            meta,
        )
    # All that an auditor needs there.
    b.run("drop role if exists auditor")
    b.run("create role auditor login in role replication_monitor")
    b.run("grant select on users to auditor")
    auditor = replace(b, dsn=psycopg.conninfo.make_conninfo(b.dsn, user="auditor"))
    assert compare([a, auditor], "0s").equal
    b.run("update users set email = null, name = 'e' where id = 1")
    assert compare([a, auditor], "0s").unsettled == 1
    b.run("drop owned by auditor; drop role auditor")


def test_another_database_or_table_is_refused_in_words(contours: list[Contour]) -> None:
    wrong = comparing(contours)
    wrong = wrong.model_copy(
        update={
            "compare": wrong.compare.model_copy(
                update={"contours": {"c": wrong.compare.contours["b"]}}
            )
        }
    )
    with pytest.raises(RefusedError, match=r"compare\.contours\.c is the database of contour b"):
        with open_contours(wrong):
            pass
    contours[1].run("select remove_table_from_replication('users')")
    (finding,) = converged(comparing(contours), ["users"])
    assert finding.description == "Not known: table users is not set up in contour b"
    away = comparing(contours)
    gone = PostgresSettings(host="127.0.0.1", port=1)
    away = away.model_copy(
        update={"compare": away.compare.model_copy(update={"contours": {"b": gone}})}
    )
    found = converged(away, ["users", "orders"])
    assert [f.verdict for f in found] == ["unknown", "unknown"]


def test_the_job_that_the_schedule_runs(
    contours: list[Contour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "contour": {"name": "a", "id": 1},
                "postgres": {"dsn": contours[0].dsn},
                "kafka": {"bootstrap_servers": "unused:1"},
                "tables": ["users"],
                "compare": {"contours": {"b": {"dsn": contours[1].dsn}}, "patience": 0},
            }
        ),
        encoding="utf-8",
    )
    monkeypatch.setenv("REPLICATION_CONFIG", str(config))
    settings = load_settings()
    job = definitions.build(settings).get_repository_def().get_job("check_convergence")
    with dg.DagsterInstance.ephemeral() as instance:

        def verdict() -> tuple[str, str]:
            assert job.execute_in_process(instance=instance).success
            return last_verdicts(instance, settings)["convergence"]

        assert last_verdicts(instance, settings) == {}
        assert verdict() == ("ok", "users: All 0 rows are equal in a, b.")
        contours[0].run("insert into users (id) values (1)")
        level, text = verdict()
        assert level == "warning"
        assert text.startswith("users: Not known: rows differ")
        monkeypatch.setattr("replication_pipeline.postgres.compare_settling.settled", lambda *_: ())
        assert verdict() == ("critical", "users: 1 of 1 rows differ.")
