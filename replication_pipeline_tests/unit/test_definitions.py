"""The Dagster surface of a contour: names, rules that keep windows alive, readable mistakes.

The snapshot is what operators, alerts and other programs rely on: change it on purpose only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange
from dagster._core.test_utils import create_run_for_test
from packaging.version import Version

from replication_pipeline import definitions
from replication_pipeline.defs import checks, purge
from replication_pipeline.defs.resources import AlertsResource, KafkaResource, PostgresResource
from replication_pipeline.defs.window_runs import FINISHED
from replication_pipeline.domain.errors import ConfigurationError, TransientError
from replication_pipeline.domain.health import ContourStatus
from replication_pipeline.settings import Settings, load_settings

pytestmark = pytest.mark.unit

SECRET = "correct-horse-battery"
CONFIGURATION = f"""
contour: {{name: a, id: 1}}
postgres: {{host: db.invalid, user: replicator, password: {SECRET}}}
kafka: {{bootstrap_servers: "kafka.invalid:9092", sasl_password: {SECRET}}}
tables: [users, sales.orders]
"""


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("REPLICATION_"):
            monkeypatch.delenv(name)
    path = tmp_path / "a.yaml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    monkeypatch.setenv("REPLICATION_CONFIG", str(path))
    return path


@pytest.fixture
def settings(configuration: Path) -> Settings:
    return load_settings(configuration)


@pytest.fixture
def compared(configuration: Path) -> Settings:
    """With another contour to be compared with."""
    other = f"compare: {{contours: {{b: {{host: db.invalid, password: {SECRET}}}}}}}\n"
    configuration.write_text(CONFIGURATION + other, encoding="utf-8")
    return load_settings(configuration)


@pytest.fixture
def contour(settings: Settings) -> dg.Definitions:
    return definitions.build(settings)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def jobs(contour: dg.Definitions) -> list[dg.JobDefinition]:
    repository = contour.get_repository_def()
    return [repository.get_job(name) for name in repository.job_names if not name.startswith("__")]


def test_lineage_runs_from_tables_through_queue_and_topic(contour: dg.Definitions) -> None:
    graph = contour.resolve_asset_graph()

    def parents(*path: str) -> set[str]:
        return {key.to_user_string() for key in graph.get(dg.AssetKey(path)).parent_keys}

    assert parents("a", "tables", "users") == set()
    assert parents("a", "replication_queue") == {"a/tables/users", "a/tables/sales.orders"}
    assert parents("kafka", "users_changes") == {"a/replication_queue"}
    assert parents("a", "applied", "users") == {"kafka/users_changes"}
    assert parents("a", "parked_events") == {
        "a/replication_queue",
        "a/applied/users",
        "a/applied/sales.orders",
    }


def test_definitions_are_valid_and_need_no_server(contour: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(contour)


def test_a_contour_without_tables_loads(configuration: Path) -> None:
    configuration.write_text(CONFIGURATION.replace("users, sales.orders", ""), encoding="utf-8")
    dg.Definitions.validate_loadable(definitions.build(load_settings(configuration)))


def test_no_step_is_retried_by_dagster(contour: dg.Definitions) -> None:
    """A retry policy turns Terminate into another attempt."""
    for job in jobs(contour):
        assert job.tags["dagster/max_retries"] == "0", job.name
        assert job.op_retry_policy is None, job.name
        for node in job.nodes:
            assert node.retry_policy is None, node.name
            assert isinstance(node.definition, dg.OpDefinition)
            assert node.definition.retry_policy is None, node.name


def test_ops_run_on_the_main_thread_of_their_run(contour: dg.Definitions) -> None:
    for job in jobs(contour):
        assert job.executor_def is dg.in_process_executor, job.name


def test_every_run_has_a_longest_time(contour: dg.Definitions, settings: Settings) -> None:
    """A run that was lost with its host is ended in Dagster's books by nothing else."""
    longest = {job.name: int(job.tags["dagster/max_runtime"]) for job in jobs(contour)}
    assert longest["publish"] >= settings.publisher.window.total_seconds() + 300
    assert longest["apply"] >= settings.consumer.window.total_seconds() + 300
    assert longest["cleanup"] > 0


def test_window_runs_are_found_by_their_tags(contour: dg.Definitions) -> None:
    tags = {job.name: job.tags for job in jobs(contour)}
    assert {name: tags["publish"][name] for name in ("contour", "role", "lane")} == {
        "contour": "a",
        "role": "publisher",
        "lane": "a/publish",
    }
    assert tags["apply"]["lane"] == "a/apply"
    assert tags["cleanup"]["contour"] == "a"


def test_sensors_and_schedule_start_without_a_click(contour: dg.Definitions) -> None:
    repository = contour.get_repository_def()
    for sensor in repository.sensor_defs:
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        # Whoever keeps windows alive, or tells people, looks as often as Dagster lets it.
        is_eager = sensor.name in ("publish_sensor", "apply_sensor", "alert_sensor")
        assert (sensor.minimum_interval_seconds == 1) == is_eager, sensor.name
    for schedule in repository.schedule_defs:
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_sqlalchemy_is_one_that_dagster_postgres_can_use() -> None:
    """From 2.1 on the bare scheme means psycopg 3, with which no event can be stored."""
    assert Version(sqlalchemy.__version__) < Version("2.1")


def test_a_mistake_in_the_configuration_is_told_in_words(configuration: Path) -> None:
    configuration.write_text("contour: {name: a}\nkafka: {brokers: x}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        definitions.contour()
    text = str(caught.value)
    assert "contour.id: is missing" in text
    assert "kafka.brokers: no such key" in text
    assert "→" in text


@pytest.mark.parametrize("key", ["cleanup.cron", "monitoring.deep_checks_cron", "compare.cron"])
def test_a_bad_cron_expression_is_told_in_words(
    compared: Settings, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("REPLICATION__" + key.upper().replace(".", "__"), "sometimes")
    with pytest.raises(ConfigurationError, match=rf"{key}: 'sometimes'"):
        definitions.contour()


def test_convergence_is_checked_where_other_contours_can_be_reached(compared: Settings) -> None:
    contour = definitions.build(compared)
    graph = contour.resolve_asset_graph()
    assert {
        key.asset_key.to_user_string()
        for key in graph.asset_check_keys
        if key.name == "convergence"
    } == {"a/applied/sales.orders", "a/applied/users"}
    repository = contour.get_repository_def()
    assert repository.get_schedule_def("compare_schedule").job_name == "check_convergence"
    assert SECRET not in repr(contour)


def test_every_check_says_what_to_do(compared: Settings) -> None:
    graph = definitions.build(compared).resolve_asset_graph()
    for key in graph.asset_check_keys:
        description = graph.get_check_spec(key).description or ""
        assert "When it fails:" in description, key


def test_assets_that_windows_report_on_are_to_be_fresh(contour: dg.Definitions) -> None:
    graph = contour.resolve_asset_graph()
    fresh = {
        key.to_user_string(): graph.get(key).freshness_policy
        for key in graph.get_all_asset_keys()
        if graph.get(key).freshness_policy is not None
    }
    assert set(fresh) == {"a/replication_queue", "a/applied/users", "a/applied/sales.orders"}
    policy = fresh["a/replication_queue"]
    assert policy == dg.FreshnessPolicy.time_window(
        warn_window=timedelta(minutes=20), fail_window=timedelta(minutes=30)
    )


def test_no_secret_in_what_dagster_stores_or_shows(contour: dg.Definitions) -> None:
    for resource in (PostgresResource(), KafkaResource(), AlertsResource()):
        assert resource.settings().postgres.password is not None
        assert SECRET not in repr(resource) + str(resource) + repr(resource.__dict__)
        assert set(type(resource).model_fields) == {"config_path"}
    for job in jobs(contour):
        assert SECRET not in repr(job.run_config) + repr(job.tags) + repr(job.metadata)
    assert SECRET not in repr(contour)


def test_loading_definitions_imports_no_client_library(configuration: Path) -> None:
    heavy = ("pandas", "matplotlib", "PIL", "numpy", "confluent_kafka", "psycopg")
    code = (
        "import sys; from replication_pipeline import definitions; definitions.contour(); "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


STATUS = ContourStatus(
    contour="a",
    unpublished=0,
    oldest_unpublished_seconds=0.0,
    parked_publish=0,
    held_publish=0,
    parked_apply=0,
    publishers=1,
    appliers=1,
    apply_lag_events=0,
    processed_total=0,
    failed_total=0,
    applied_total=0,
    skipped_total=0,
    conflicts_total=0,
)


class KnownStatus(PostgresResource):
    """The resource with a status that the test chose."""

    unpublished: int = 0
    age: float = 0.0
    away: bool = False

    def status(self) -> ContourStatus:
        if self.away:
            raise TransientError("contour a: connection refused")
        return replace(STATUS, unpublished=self.unpublished, oldest_unpublished_seconds=self.age)


@pytest.mark.parametrize(
    ("resource", "passed", "severities"),
    [
        (KnownStatus(), [True, True], ["WARN", "WARN"]),
        (KnownStatus(unpublished=5_000, age=12.0), [False, False], ["WARN", "WARN"]),
        (KnownStatus(unpublished=7, age=31.0), [True, False], ["WARN", "ERROR"]),
        (KnownStatus(away=True), [False, False], ["WARN", "WARN"]),
    ],
    ids=["idle", "many", "old", "away"],
)
def test_checks_can_be_executed_on_demand(
    settings: Settings, resource: KnownStatus, passed: list[bool], severities: list[str]
) -> None:
    loaded = dg.Definitions(
        asset_checks=[checks.queue_checks(settings)], resources={"postgres": resource}
    )
    result = loaded.resolve_implicit_global_asset_job_def().execute_in_process()
    found = {e.check_name: e for e in result.get_asset_check_evaluations()}
    ordered = [found["unpublished_count"], found["publish_lag"]]
    assert result.success, "a failing check is a verdict, not a failed run"
    assert [e.passed for e in ordered] == passed
    assert [e.severity.value for e in ordered] == severities
    assert all(e.description for e in ordered)


def test_a_verdict_is_stored_on_change_and_then_now_and_again(settings: Settings) -> None:
    def due(
        status: ContourStatus, last: checks.Stored, now: float
    ) -> tuple[list[str], checks.Stored]:
        chosen, after = checks.due(
            checks.findings(status, settings.monitoring),
            last,
            now=now,
            every=timedelta(seconds=60),
        )
        return [finding.check for finding in chosen], after

    first, stored = due(STATUS, {}, now=1_000.0)
    assert first == ["unpublished_count", "publish_lag"]
    again, stored = due(STATUS, stored, now=1_030.0)
    assert again == []
    late = replace(STATUS, unpublished=1, oldest_unpublished_seconds=40.0)
    changed, stored = due(late, stored, now=1_035.0)
    assert changed == ["publish_lag"]
    periodic, stored = due(late, stored, now=1_061.0)
    assert periodic == ["unpublished_count"]


def test_purge_deletes_old_finished_runs_of_this_contour_only(
    instance: dg.DagsterInstance,
) -> None:
    def run(contour: str, status: dg.DagsterRunStatus) -> str:
        made: dg.DagsterRun = create_run_for_test(
            instance, job_name="publish", tags={"contour": contour}, status=status
        )
        return made.run_id

    for status in FINISHED:
        run("a", status)
    kept = {run("a", dg.DagsterRunStatus.STARTED), run("b", dg.DagsterRunStatus.SUCCESS)}
    ours = {"contour": "a"}

    assert purge.finished_runs(instance, ours, older_than=timedelta(hours=1)) == 0
    assert purge.finished_runs(instance, {}, older_than=timedelta()) == 0
    assert purge.finished_runs(instance, ours, older_than=timedelta(), limit=2) == 2
    assert purge.finished_runs(instance, ours, older_than=timedelta()) == 1
    assert {r.run_id for r in instance.get_runs()} == kept


def test_purge_deletes_old_check_results_without_a_run_but_the_newest(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    def store(contour: str) -> None:
        for finding in checks.findings(STATUS, settings.monitoring):
            instance.report_runless_asset_event(checks.evaluation(finding, contour))

    def history(contour: str, check: str) -> int:
        key = dg.AssetCheckKey(dg.AssetKey([contour, "replication_queue"]), check)
        storage = instance.event_log_storage
        return len(storage.get_asset_check_execution_history(key, limit=100))

    for contour in ("a", "a", "a", "b", "b"):
        store(contour)
    assert purge.runless_checks(instance, "a", older_than=timedelta(hours=1)) == 0
    assert purge.runless_checks(instance, "a", older_than=timedelta(seconds=-1)) == 4
    assert history("a", "publish_lag") == history("a", "unpublished_count") == 1
    assert history("b", "publish_lag") == 2


def test_purge_covers_every_asset_and_kind_of_event_without_a_run(
    instance: dg.DagsterInstance,
) -> None:
    kinds = [dg.DagsterEventType.ASSET_OBSERVATION, dg.DagsterEventType.FRESHNESS_STATE_CHANGE]

    def observe(*path: str) -> None:
        key = dg.AssetKey(path)
        instance.report_runless_asset_event(dg.AssetObservation(key, tags={"a_tag": "1"}))
        change = FreshnessStateChange(
            key=key,
            new_state=FreshnessState.WARN,
            previous_state=FreshnessState.PASS,
            state_change_timestamp=time.time(),
        )
        instance._report_runless_asset_event(change)
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=key, check_name="apply_lag", passed=True)
        )

    def events() -> dict[str, int]:
        found = Counter(
            record.event_log_entry.dagster_event.asset_key.to_user_string()  # type: ignore[union-attr]
            for kind in kinds
            for record in instance.event_log_storage.get_event_records(dg.EventRecordsFilter(kind))
        )
        return dict(found)

    for _ in range(3):
        observe("a_b", "applied", "users")
        observe("a_b", "applied", "orders")
        observe("axb", "applied", "users")
    far = timedelta(seconds=-1)
    assert purge.runless_events(instance, "a_b", older_than=timedelta(hours=1)) == 0
    assert purge.runless_events(instance, "a_b", older_than=far, limit=3) == 3
    assert purge.runless_events(instance, "a_b", older_than=far) == 5
    assert events() == {"a_b/applied/users": 2, "a_b/applied/orders": 2, "axb/applied/users": 6}
    assert purge.runless_checks(instance, "a_b", older_than=far) == 4
    evaluations = dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    assert len(instance.event_log_storage.get_event_records(evaluations)) == 9 - 4, (
        "the rows as well"
    )
    assert purge.runless_checks(instance, "axb", older_than=far) == 2


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/Los_Angeles"])
def test_times_of_check_results_are_compared_in_utc(
    instance: dg.DagsterInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for _ in range(2):
            for finding in checks.findings(STATUS, settings.monitoring):
                instance.report_runless_asset_event(checks.evaluation(finding, "a"))
        assert purge.runless_checks(instance, "a", older_than=timedelta(minutes=1)) == 0
        assert purge.runless_checks(instance, "a", older_than=timedelta(minutes=-1)) == 2
    finally:
        monkeypatch.undo()
        time.tzset()
