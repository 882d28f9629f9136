"""Plain ``dagster dev`` from the repository, given a configuration file: the location loads, the first
window publishes, a receiver hears that there was no publisher and that there is one, and an hour with
a parked event is materialized as the UI does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import yaml

from replication_pipeline.defs.hours import key_of
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres, ManagedProcess
from replication_pipeline.embedded.process import free_port
from replication_pipeline.postgres.queries import sql_directory
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.publishing import park_by_hand
from replication_pipeline_tests.receivers import HttpReceiver, http_receiver

pytestmark = pytest.mark.acceptance

REPOSITORY = sql_directory().parent
QUERY = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus
  locationOrLoadError { __typename ... on PythonError { message } } } } } }"""


QUEUE = {"path": ["a", "replication_queue"]}
BACKFILL = """mutation($of: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $of) {
  __typename ... on PythonError { message } } }"""
OWNERS = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  owners { ... on TeamAssetOwner { team } } } } }"""
FAILED_BACKFILLS = """
select r.run_id from runs r join run_tags t on t.run_id = r.run_id and t.key = 'dagster/backfill'
 where r.status = 'FAILURE'
"""


def ask(port: int, query: str, **variables: Any) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query, "variables": variables}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)["data"]


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        yield made


def levels_of(receiver: HttpReceiver, alert: str) -> list[str]:
    return [body["level"] for body in receiver.bodies if body["alert"] == alert]


@pytest.mark.timeout(240)
def test_plain_dagster_dev_loads_publishes_and_tells(
    users: list[Contour],
    postgres: EmbeddedPostgres,
    kafka: EmbeddedKafka,
    tmp_path: Path,
    receiver: HttpReceiver,
) -> None:
    contour = users[0]
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", home)
    config = tmp_path / "a.yaml"
    kafka_settings = contour.settings.kafka
    config.write_text(
        yaml.safe_dump(
            {
                "contour": {"name": "a", "id": 1},
                "postgres": {"dsn": contour.dsn},
                "kafka": {
                    "bootstrap_servers": kafka_settings.bootstrap_servers,
                    "topic_prefix": kafka_settings.topic_prefix,
                },
                "tables": ["users"],
                "monitoring": {
                    "webhook": {"url": receiver.url},
                    "alert_after": "0s",
                    "alert_clear_after": "0s",
                },
            }
        ),
        encoding="utf-8",
    )
    postgres.create_database("dagster_dev")
    contour.run("insert into users (id) values (1)")
    port = free_port()
    process = ManagedProcess(
        [str(Path(sys.executable).with_name("dagster")), "dev", "-p", str(port)],
        log_file=tmp_path / "dagster.log",
        cwd=REPOSITORY,
        env={
            **os.environ,
            "DAGSTER_HOME": str(home),
            "REPLICATION_CONFIG": str(config),
            "DAGSTER_PG_HOST": postgres.host,
            "DAGSTER_PG_PORT": str(postgres.port),
            "DAGSTER_PG_USERNAME": "postgres",
            "DAGSTER_PG_PASSWORD": "",
            "DAGSTER_PG_DB": "dagster_dev",
        },
    )
    try:
        pause = threading.Event()
        while contour.value("select count(*) from replication_queue where published") == 0:
            assert process.alive, process.tail_of_log(40)
            pause.wait(0.5)
        while levels_of(receiver, "publisher_down") != ["critical", "ok"]:
            assert process.alive, process.tail_of_log(40)
            pause.wait(0.5)
        with psycopg.connect(postgres.dsn("dagster_dev")) as storage:
            stored = storage.execute(
                "select check_name, run_id from asset_check_executions order by id"
            ).fetchall()
        assert {"error_rate", "parked_events", "heartbeat", "queue_health", "apply_lag"} <= {
            name for name, _ in stored
        }
        assert {run for _, run in stored} == {""}, "cheap checks need no run"
        (entry,) = ask(port, QUERY)["workspaceOrError"]["locationEntries"]
        assert entry["loadStatus"] == "LOADED", entry
        assert entry["locationOrLoadError"]["__typename"] == "RepositoryLocation", entry

        park_by_hand(contour, 2, "MSG_SIZE_TOO_LARGE")
        hour = key_of(datetime.now(UTC) - timedelta(hours=2))[:-2] + "00"
        launched = ask(
            port,
            BACKFILL,
            of={
                "assetSelection": [QUEUE],
                "partitionNames": [hour],
                "runConfigData": json.dumps(
                    {"ops": {"a__replication_queue": {"config": {"tables": ["users"]}}}}
                ),
            },
        )["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched

        with psycopg.connect(postgres.dsn("dagster_dev"), autocommit=True) as storage:
            while contour.value("select count(*) from replication_queue where not published"):
                assert process.alive, process.tail_of_log(40)
                # The console's own verdict on the hour may come first, and is a failed run too.
                assert not storage.execute(FAILED_BACKFILLS).fetchall(), process.tail_of_log(40)
                pause.wait(0.5)
        node = ask(port, OWNERS, key=QUEUE)["assetNodeOrError"]
        assert node["owners"] == [{"team": "replication"}]
    finally:
        # Its code servers are in groups of their own and would go on until they miss its heartbeat.
        children = psutil.Process(process.pid).children(recursive=True) if process.alive else []
        process.stop(signal=signal.SIGINT, timeout=30)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=10)
