"""One contour under Dagster's own daemon and code server: windows that follow each other, what they
leave to read, and what happens when everything is killed at once."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bench.site import PUBLISHED, Run, Site, paced_writer, pauses, site
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.publishing import until
from replication_pipeline_tests.receivers import HttpReceiver, http_receiver

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

PATIENCE = 120.0  # seconds
WINDOW = 30.0  # seconds; successors are requested after half of that
MATERIALIZATION = """
select event from event_logs where run_id = %s and dagster_event_type = 'ASSET_MATERIALIZATION'
"""
JUDGED = """
select event from event_logs
 where dagster_event_type = 'FRESHNESS_STATE_CHANGE' and asset_key = %s order by id
"""


def published(contour: Contour) -> list[float]:
    with psycopg.connect(contour.dsn, autocommit=True) as connection:
        return [at for at, *_ in connection.execute(PUBLISHED)]


def report_of(dagster: Site, run: Run) -> dict[str, Any]:
    with dagster.storage() as storage:
        ((event,),) = storage.execute(MATERIALIZATION, [run.run_id]).fetchall()
    materialization = json.loads(event)["dagster_event"]["event_specific_data"]["materialization"]
    return {entry["label"]: entry["entry_data"] for entry in materialization["metadata_entries"]}


def test_windows_follow_each_other_and_come_back_after_a_power_cut(
    users: list[Contour],
    postgres: EmbeddedPostgres,
    kafka: EmbeddedKafka,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    contour = users[0]
    with (
        http_receiver() as receiver,
        site(
            tmp_path / "site",
            postgres,
            contour.settings,
            publisher={"window": f"{WINDOW}s"},
            monitoring={"webhook": {"url": receiver.url}},
        ) as dagster,
    ):
        first = dagster.until_running()
        over = threading.Event()
        writer = paced_writer(contour.dsn, 50, over)
        try:
            told = hand_over(dagster, contour, first)
            told += power_cut(dagster, contour)
            failures_are_told(receiver)
            freshness_is_known(dagster)
        finally:
            over.set()
            writer.join()
    with capsys.disabled():
        print(f"\n{told}")  # noqa: T201


def hand_over(dagster: Site, contour: Contour, first: Run) -> str:
    """The successor works before the first window has ended; the first one tells all about itself."""

    def window(number: int) -> Run | None:
        found = dagster.windows("publish")
        return found[number] if len(found) > number else None

    def ended() -> bool:
        run = window(0)
        return bool(run and run.ended)

    until(ended, "the first window to end", WINDOW + 60)
    one, two = window(0), window(1)
    assert one is not None
    assert two is not None, "no successor was requested"
    assert (one.run_id, one.status) == (first.run_id, "SUCCESS")
    assert (two.started or time.time()) < (one.ended or 0.0)
    assert one.tags["window"] == "30s"
    assert one.tags["instance"].startswith("a-publisher-")
    time.sleep(1)
    moments = [at for at in published(contour) if at > (two.started or 0.0) - 5]
    longest = max(length for _, length in pauses(moments))
    assert longest < WINDOW / 4, "nobody published while windows changed"
    report = report_of(dagster, one)
    summary = report["summary"]["md_str"]
    # Its picture is drawn at low priority; a busy machine goes without.
    assert re.match(r"\*\*[\d,]+ events published in [\d,]+ batches", summary)
    assert report["processed"]["value"] > 50
    assert len(report["last_batches"]["records"]) == 20
    return f"hand-over of windows: longest pause in publishing {longest * 1000:.0f} ms"


def power_cut(dagster: Site, contour: Contour) -> str:
    """Everything of Dagster's goes at once, runs included, and is started again."""
    ghosts = [run.run_id for run in dagster.windows() if run.status == "STARTED" and run.alive]
    assert ghosts
    began = time.time()
    dagster.kill("machine")
    dagster.start("code server", "daemon")
    until(lambda: published(contour)[-1] > time.time() - 1, "publishing to go on", PATIENCE)
    paused = max(length for at, length in pauses(published(contour)) if at + length > began)

    def no_ghosts() -> bool:
        runs = {run.run_id: run for run in dagster.windows()}
        return all(runs[run_id].status == "FAILURE" for run_id in ghosts)

    until(no_ghosts, "the ghosts to be ended in Dagster's books", PATIENCE)
    books = time.time() - began
    return f"; power cut: publishing paused for {paused:.0f} s, all ghosts ended in {books:.0f} s"


def failures_are_told(receiver: HttpReceiver) -> None:
    """By ``run_failure_sensor``, once for each job."""

    def told() -> bool:
        alerts = [body["alert"] for body in receiver.bodies if body["alert"].startswith("run of")]
        assert len(alerts) == len(set(alerts)), alerts
        return set(alerts) == {"run of publish failed", "run of apply failed"}

    until(told, "failed runs to be told", PATIENCE)


def freshness_is_known(dagster: Site) -> None:
    """Dagster's daemon judges the queue by its last window's report."""

    def judged() -> bool:
        with dagster.storage() as storage:
            found = storage.execute(JUDGED, ['["a", "replication_queue"]']).fetchall()
        return bool(found) and json.loads(found[-1][0])["dagster_event"]["event_specific_data"][
            "new_state"
        ] == {"__enum__": "FreshnessState.PASS"}

    until(judged, "the queue to be judged fresh", PATIENCE)
