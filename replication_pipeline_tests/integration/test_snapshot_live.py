"""Snapshots over Kafka: the order of a key's events, a killed command, a third contour under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine import snapshot as engine
from replication_pipeline.engine.failpoints import SnapshotPoint
from replication_pipeline.engine.snapshot import Wanted
from replication_pipeline.postgres import snapshot_runs
from replication_pipeline_tests.acceptance.test_command_line import COMMAND, configuration
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import MakeContours, same_rows, settle
from replication_pipeline_tests.integration.commands import call
from replication_pipeline_tests.integration.loading import (
    ITEMS,
    Loading,
    change_items,
    exchange,
    load,
    places,
    unseen,
    writing,
)
from replication_pipeline_tests.publishing import (
    assert_all_arrived,
    log_of,
    publishing,
    until,
    until_published,
)

pytestmark = pytest.mark.integration
MANY = "insert into items select i, 'body ' || i from generate_series(0, 2999) i"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_runs, "ROWS_A_PART", 500)
    monkeypatch.setattr(engine, "FIRST_ROWS", 40)


def test_who_reads_the_topic_as_upserts_has_the_table(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    (a,) = make_contours(ITEMS, ["items"], count=1)
    unseen(a, MANY)
    a.run("analyze items")
    a.run("delete from items where id between 2900 and 2950")
    with publishing(a.settings), writing([a], change_items(3_000), each=4) as writers:
        for _ in range(2):
            load(a)
        written = writers.written
        until(lambda: writers.written > written + 10, "writers to go on")
    a.publish()
    assert_all_arrived(a, "items")
    found = {}
    for value in log_of(a, "items"):
        found[(value["after"] or value["before"])["id"]] = value["after"]
    living = {key: row for key, row in found.items() if row is not None}
    assert living == {
        key: {"id": key, "body": body, "note": note}
        for key, body, note in a.run("select id, body, note from items")
    }


@pytest.mark.parametrize(
    ("point", "times"), [("part_taken", 20), ("chunk_queued", 12), ("deletes_queued", 1)]
)
def test_killed_and_resumed_no_row_is_missing(
    make_contours: MakeContours, tmp_path: Path, point: SnapshotPoint, times: int
) -> None:
    contours = make_contours(ITEMS, ["items"])
    a, b = contours
    unseen(a, MANY.replace("2999", "19999"))
    a.run("delete from items where id in (5, 6)")
    file = configuration(tmp_path, a, snapshot={"max_chunk": 500})
    killed = subprocess.run(
        [*COMMAND, "snapshot", "items", "--config", file],
        env=os.environ | {"REPLICATION_FAILPOINT": f"{point}:{times}"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    count = "select count(*) from replication_queue where snapshot_to is not null"
    assert a.value(count) < 20_000
    again = Loading(a, Wanted("items"))
    assert again.run.resumed
    assert again.start().end().end == "done"
    assert a.value(count) == 20_000  # nothing is missing, and nothing twice
    with places(contours) as both:
        exchange(both)
    assert same_rows(contours, "items")
    assert b.value("select count(*) from replication.replication_tombstones") == 2


def test_a_third_contour_comes_under_load(
    make_contours: MakeContours, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    a, b, c = make_contours(ITEMS, ["items"], count=3)
    unseen(a, MANY)
    with ExitStack() as running:
        for contour in (a, b):
            running.enter_context(publishing(contour.settings))
            running.enter_context(applying(contour.settings))
        load(a, to="b")  # nothing on the topic tells c of these rows
        with writing([a, b], change_items(3_000)) as writers:
            running.enter_context(publishing(c.settings))
            running.enter_context(applying(c.settings))
            file = configuration(tmp_path, a)
            done = subprocess.run(
                [*COMMAND, "snapshot", "items", "--to", "c", "--json", "--config", file],
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            with writing([c], change_items(3_000)):
                written = writers.written
                until(lambda: writers.written > written + 50, "writers to go on")
        for contour in (a, b, c):
            until_published(contour)
        until(lambda: same_rows([a, b, c], "items"), "all three to be equal")
    assert json.loads(done.stdout)["rows"] > 1_000
    settle([a, b, c], 1)
    assert same_rows([a, b, c], "items")
    for contour in (a, b, c):
        assert contour.value("select count(*) from parked_events") == 0


def test_set_up_and_loaded_by_one_command(
    make_contours: MakeContours, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    (a,) = make_contours(ITEMS, ["items"], count=1)
    a.run("select remove_table_from_replication('items')")
    a.run(MANY)
    result = call(a, tmp_path, "setup-table", "items", "--snapshot")
    assert result.exit_code == 0, result.output
    assert "queued: 3,000 rows and 0 deletes" in result.output
    assert a.value("select count(*) from replication_queue where operation = 'SNAPSHOT'") == 3000


def test_a_stop_ends_in_order_and_says_how_to_go_on(
    make_contours: MakeContours, tmp_path: Path
) -> None:
    (a,) = make_contours(ITEMS, ["items"], count=1)
    unseen(a, MANY)
    words = ["snapshot", "items", "--where", "id >= 0", "--rate", "1000"]
    with subprocess.Popen(
        [*COMMAND, *words, "--config", configuration(tmp_path, a)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: a.value("select count(*) from replication_queue") > 100, "rows to be queued")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "replication-pipeline snapshot items --where 'id >= 0'" in told
    totals = Loading(a, Wanted("items", where="id >= 0")).start().end()
    assert totals.progress.rows == 3000 == a.value("select count(*) from replication_queue")
