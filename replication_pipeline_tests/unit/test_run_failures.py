"""``run_failure_sensor`` on real runs of a Dagster instance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
import yaml

from replication_pipeline.defs.alerts import run_failure_sensor
from replication_pipeline.defs.resources import AlertsResource, PostgresResource
from replication_pipeline.domain.errors import FatalError
from replication_pipeline_tests.receivers import HttpReceiver, http_receiver

pytestmark = pytest.mark.unit

ROW = "row (42, 'secret value')"


@dataclass
class Runs:
    """Runs jobs of contour ``a``, and hands each failed one to the sensor as the daemon does."""

    instance: dg.DagsterInstance
    config: Path
    texts: list[str] = field(default_factory=list)

    def run(self, job: str, error: Exception | None, **tags: str) -> None:
        @dg.op(name=f"step_of_{job}")
        def step() -> None:
            if error is not None:
                raise error

        @dg.job(name=job, tags={"contour": "a", **tags}, executor_def=dg.in_process_executor)
        def made() -> None:
            step()

        done = made.execute_in_process(instance=self.instance, raise_on_error=False)
        if done.success:
            return
        context = dg.build_run_status_sensor_context(
            sensor_name="run_failure_sensor",
            dagster_instance=self.instance,
            dagster_run=done.dagster_run,
            dagster_event=done.get_run_failure_event(),
            resources={
                "postgres": PostgresResource(config_path=str(self.config)),
                "alerts": AlertsResource(config_path=str(self.config)),
            },
        ).for_run_failure()
        skipped = run_failure_sensor(context)
        if skipped is not None:
            assert isinstance(skipped, dg.SkipReason)
            self.texts.append(skipped.skip_message or "")


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        yield made


@pytest.fixture
def runs(tmp_path: Path, receiver: HttpReceiver) -> Iterator[Runs]:
    config = tmp_path / "a.yaml"
    content = {
        "contour": {"name": "a", "id": 1},
        "postgres": {"host": "db.invalid"},
        "kafka": {"bootstrap_servers": "kafka.invalid:1"},
        "monitoring": {"webhook": {"url": receiver.url}},
    }
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Runs(instance, config)


def alerts(receiver: HttpReceiver) -> Sequence[str]:
    return [body["alert"] for body in receiver.bodies]


def test_the_first_failure_in_a_row_is_told(runs: Runs, receiver: HttpReceiver) -> None:
    fatal = FatalError("the database is contour b", remedy="check postgres.dsn")
    for _ in range(3):
        runs.run("publish", dg.Failure(str(fatal), allow_retries=False))
    runs.run("cleanup", dg.Failure("no right", allow_retries=False))
    assert alerts(receiver) == ["run of publish failed", "run of cleanup failed"]
    assert len(runs.texts) == 2
    assert "failed as well" in runs.texts[0]
    body = receiver.bodies[0]
    assert body["level"] == "warning"
    assert "the database is contour b" in body["text"]
    assert "check postgres.dsn" in body["text"]
    assert "in the Dagster UI" in body["advice"]

    runs.run("publish", None)
    runs.run("publish", dg.Failure(str(fatal), allow_retries=False))
    assert alerts(receiver)[2:] == ["run of publish failed"]


def test_runs_that_fail_to_show_red_are_not_told(runs: Runs, receiver: HttpReceiver) -> None:
    runs.run("stalled_hours", dg.Failure("3 events are stalled"), verdict="stalled")
    assert alerts(receiver) == []
    assert "on purpose" in runs.texts[0]


def test_texts_of_unforeseen_errors_stay_in_dagster(runs: Runs, receiver: HttpReceiver) -> None:
    """They may quote rows."""
    runs.run("snapshot", ValueError(ROW))
    (body,) = receiver.bodies
    assert body["text"] == "Step step_of_snapshot ended with ValueError."
    assert ROW not in str(body)


def test_a_receiver_that_is_away_turns_the_tick_red(
    runs: Runs, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replication_pipeline.defs.alerts.PAUSE", 0.01)
    receiver.status = 500
    with pytest.raises(Exception, match="not all were told") as caught:
        runs.run("cleanup", ValueError())
    assert "127.0.0.1 answered 500" in str(caught.value.__cause__ or caught.value)
    assert len(receiver.requests) == 3
