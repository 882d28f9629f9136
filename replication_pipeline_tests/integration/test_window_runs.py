"""The op of a window, run by Dagster in this process, on real servers: what it does and tells."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from replication_pipeline import definitions
from replication_pipeline.defs.lanes import REASON_TAG
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline.settings import load_settings
from replication_pipeline_tests.acceptance.test_command_line import configuration
from replication_pipeline_tests.conftest import Contour, MakeContours
from replication_pipeline_tests.publishing import unpublished, until

pytestmark = pytest.mark.integration


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def run_window(
    contour: Contour,
    instance: dg.DagsterInstance,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: str,
    seconds: float,
    tags: dict[str, str] | None = None,
    **sections: Any,
) -> tuple[dg.ExecuteInProcessResult, dict[str, Any]]:
    """One run of ``job``; with its whole report."""
    monkeypatch.setenv("REPLICATION_CONFIG", configuration(folder, contour, **sections))
    settings = load_settings()
    op = {"publish": "publish_batches", "apply": "apply_batches"}[job]
    result = (
        definitions.build(settings)
        .resolve_job_def(job)
        .execute_in_process(
            instance=instance,
            tags=tags,
            run_config={"ops": {op: {"config": {"window_seconds": seconds}}}},
        )
    )
    reports = [
        {name: entry.value for name, entry in event.metadata.items()}
        for event in result.asset_materializations_for_node(op)
    ]
    return result, next(report for report in reports if "summary" in report)


def records(table: Any) -> list[dict[str, Any]]:
    return [record.data for record in table.records]


def test_a_window_of_no_length_is_one_batch(
    users: list[Contour],
    kafka: EmbeddedKafka,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contour = users[0]
    contour.run("insert into users (id) select g from generate_series(1, 50) g")
    result, report = run_window(
        contour, instance, tmp_path, monkeypatch, "publish", 0, publisher={"batch_size": 20}
    )
    assert result.success
    assert (report["batches"], report["processed"], unpublished(contour)) == (1, 20, 30)
    (batch,) = records(report["last_batches"])
    assert (batch["events"], batch["attempts"], batch["error"]) == (20, 1, "")
    assert batch["duration_ms"] > 0
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    tags = run.tags
    assert tags["contour"] == contour.settings.contour.name
    assert tags["window"] == "0s"
    assert tags["instance"].startswith(f"{contour.settings.contour.name}-publisher-")


def test_refused_and_parked_events_are_told_by_kind(
    make_contours: MakeContours,
    kafka: EmbeddedKafka,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where an event is published, and where it is applied."""
    family = (
        "create table parents (id bigint primary key);"
        "create table children (id bigint primary key, parent bigint references parents)"
    )
    here, there = make_contours(family, ["parents", "children"])
    here.run("insert into parents values (1)")
    here.run("insert into children values (1, 1)")
    here.publish()
    there.run("alter table parents rename column id to number")  # so no event of it can be applied
    _, report = run_window(there, instance, tmp_path, monkeypatch, "apply", 2)
    kinds = {row["kind"]: row for row in records(report["errors_by_kind"])}
    assert kinds["missing_parent"]["outcome"] == "parked"
    assert kinds["missing_parent"]["events"] == 1
    # Both may come in one batch, or in two.
    assert any("missing_parent" in str(row["error"]) for row in records(report["failed_batches"]))
    assert report["parked"] == sum(row["events"] for row in kinds.values())


STARTED = """
select started_at + interval '1 second' < clock_timestamp(), stopped_at is not null
  from replication.workers where role = 'publisher' order by started_at limit 1
"""


def test_a_window_that_a_sensor_keeps_alive_does_not_end_before_its_successor_is_there(
    users: list[Contour],
    kafka: EmbeddedKafka,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contour = users[0]

    def successor() -> bool:
        """Comes when the window's time is over; whether the window was still there."""
        with psycopg.connect(contour.dsn, autocommit=True) as looking:
            until(
                lambda: looking.execute(STARTED).fetchone() == (True, False), "its time to be over"
            )
            contour.run("insert into users (id) values (1)")
            until(lambda: unpublished(contour) == 0, "the window to publish in its overtime")
            with closing(PostgresOutbox(contour.settings, "successor")) as outbox:
                outbox.claim(1)
                until(lambda: looking.execute(STARTED).fetchone() == (True, True), "it to end")
        return True

    with ThreadPoolExecutor(1) as beside:
        came = beside.submit(successor)
        result, report = run_window(
            contour, instance, tmp_path, monkeypatch, "publish", 1, tags={REASON_TAG: "a test"}
        )
        assert came.result()
    assert result.success
    assert report["processed"] == 1
