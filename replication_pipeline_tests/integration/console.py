"""A contour's code location on a real Dagster instance, whose storage is PostgreSQL as in production.

Runs are executed in the tests' process: what Dagster's own services add (queue, processes, the UI) is
the acceptance tests' part.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg

from replication_pipeline import definitions
from replication_pipeline.defs.assets import parked_key, queue_key
from replication_pipeline.defs.console import PARTITION, RANGE
from replication_pipeline.defs.hours import key_of
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.postgres.queries import sql_directory
from replication_pipeline.settings import load_settings
from replication_pipeline_tests.acceptance.test_command_line import configuration
from replication_pipeline_tests.conftest import Contour

DATABASE = "dagster_console"


@contextmanager
def instance_on(postgres: EmbeddedPostgres, home: Path) -> Iterator[dg.DagsterInstance]:
    """As the shipped dagster.yaml says."""
    postgres.create_database(DATABASE)
    shutil.copy(sql_directory().parent / "dagster.yaml", home)
    variables = {
        "DAGSTER_PG_HOST": postgres.host,
        "DAGSTER_PG_PORT": str(postgres.port),
        "DAGSTER_PG_USERNAME": "postgres",
        "DAGSTER_PG_PASSWORD": "trusted",
        "DAGSTER_PG_DB": DATABASE,
    }
    with (
        mock.patch.dict(os.environ, variables),
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        yield instance


@dataclass(frozen=True)
class Console:
    """What an operator does in the UI, and what the daemon does for the sensor."""

    instance: dg.DagsterInstance
    config: str
    since: datetime

    @classmethod
    def of(
        cls,
        contour: Contour,
        instance: dg.DagsterInstance,
        path: Path,
        since: datetime,
        **more: Any,
    ) -> Console:
        return cls(instance, configuration(path, contour, **more), since)

    @property
    def defs(self) -> dg.Definitions:
        with mock.patch.dict(os.environ, {"REPLICATION_CONFIG": self.config}):
            return definitions.build(load_settings(self.config), self.since)

    @property
    def contour(self) -> str:
        return load_settings(self.config).contour.name

    def materialize(
        self, key: dg.AssetKey, *partitions: str, **config: Any
    ) -> dg.ExecuteInProcessResult:
        """*Materialize* on one partition, or on a range from the first to the last."""
        with mock.patch.dict(os.environ, {"REPLICATION_CONFIG": self.config}):
            job = self.defs.resolve_implicit_job_def_def_for_assets([key])
            assert job is not None
            given = {"ops": {key.to_python_identifier(): {"config": config}}}
            tags = dict(zip(RANGE, (partitions[0], partitions[-1]), strict=True))
            return job.get_subset(asset_selection={key}).execute_in_process(
                instance=self.instance,
                run_config=given,
                raise_on_error=False,
                **({"partition_key": partitions[0]} if len(partitions) == 1 else {"tags": tags}),
            )

    def backfill(self, *hours: datetime, **config: Any) -> dg.ExecuteInProcessResult:
        return self.materialize(
            queue_key(self.contour), *(key_of(hour) for hour in hours), **config
        )

    def parked(self, reason: str, **config: Any) -> dg.ExecuteInProcessResult:
        return self.materialize(parked_key(self.contour), reason, **config)

    def run(self, name: str, op: str, **config: Any) -> dg.ExecuteInProcessResult:
        """A job from its form."""
        with mock.patch.dict(os.environ, {"REPLICATION_CONFIG": self.config}):
            return (
                self.defs.get_repository_def()
                .get_job(name)
                .execute_in_process(
                    instance=self.instance,
                    run_config={"ops": {op: {"config": config}}} if config else None,
                    raise_on_error=False,
                )
            )

    def tick(self, cursor: str | None = None) -> Tick:
        """One tick of ``console_sensor``, whose requests are run and whose events are stored."""
        with mock.patch.dict(os.environ, {"REPLICATION_CONFIG": self.config}):
            defs = self.defs
            with dg.build_sensor_context(
                instance=self.instance,
                cursor=cursor,
                definitions=defs,
                resources={"postgres": PostgresResource()},
            ) as context:
                data = defs.resolve_sensor_def("console_sensor").evaluate_tick(context)
        for change in data.dynamic_partitions_requests or ():
            if isinstance(change, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(
                    change.partitions_def_name, change.partition_keys
                )
            else:
                for key in change.partition_keys:
                    self.instance.delete_dynamic_partition(change.partitions_def_name, key)
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        runs = []
        for request in data.run_requests or ():
            (asset,) = [dg.AssetKey.from_coercible(e) for e in request.asset_selection or ()]
            config = request.run_config["ops"][asset.to_python_identifier()]["config"]
            names = [request.tags[tag] for tag in (PARTITION, *RANGE) if tag in request.tags]
            runs.append(self.materialize(asset, *names, **config))
        return Tick(data, data.cursor, runs)

    def colours(self, key: dg.AssetKey) -> dict[str, str]:
        """What the UI shows of each partition: ``MATERIALIZED``, ``FAILED``. Grey ones are left out."""
        partitions = self.defs.resolve_asset_graph().get(key).partitions_def
        assert partitions is not None
        keys = partitions.get_partition_keys(dynamic_partitions_store=self.instance)
        found = self.instance.get_status_by_partition(key, keys, partitions) or {}
        return {name: status.value for name, status in found.items() if status is not None}

    def latest(self, key: dg.AssetKey) -> Mapping[str, Any]:
        """The metadata of an asset's newest observation."""
        (record,) = self.instance.fetch_observations(key, limit=1).records
        assert record.asset_observation is not None
        return {name: value.value for name, value in record.asset_observation.metadata.items()}


@dataclass(frozen=True)
class Tick:
    data: Any
    cursor: str | None
    runs: Sequence[dg.ExecuteInProcessResult]
