"""All that Dagster shows of a contour, with its descriptions, is what the committed text says.

Operators, alerts and other programs rely on names; people read the descriptions. `make snapshot`
writes the text anew; look at the difference before it is committed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from replication_pipeline import definitions
from replication_pipeline.settings import Settings

pytestmark = pytest.mark.unit

SNAPSHOT = Path(__file__).with_name("definitions.snapshot.txt")
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def contour() -> dg.Definitions:
    settings = Settings(
        contour={"name": "a", "id": 1},
        postgres={"host": "db.invalid"},
        kafka={"bootstrap_servers": "kafka.invalid:9092"},
        tables=["users", "sales.orders"],
        monitoring={
            "runbook_url": "https://wiki.example/operate",
            "topic_url": "https://kafka.example/topics/{topic}",
            "owners": ["team:data", "ops@example.com"],
        },
    )
    return definitions.build(settings, SINCE)


def described(contour: dg.Definitions) -> Iterator[str]:
    """Every definition: its name, then indented what people see of it."""
    repository, graph = contour.get_repository_def(), contour.resolve_asset_graph()
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        yield f"asset {key.to_user_string()}"
        yield f"  group {node.group_name}, kinds {sorted(node.kinds)}, owners {list(node.owners)}"
        yield f"  after {sorted(parent.to_user_string() for parent in node.parent_keys)}"
        if node.partitions_def is not None:
            yield f"  partitions {node.partitions_def}"
        yield from shown(node.metadata)
        yield f"  {node.description}"
        if node.is_executable:
            yield from form(node.assets_def.op)
    for check in sorted(graph.asset_check_keys, key=str):
        spec = graph.get_check_spec(check)
        yield f"check {check.name} of {check.asset_key.to_user_string()}"
        yield f"  {spec.description}"
    for name in sorted(repository.job_names):
        if name.startswith("__"):
            continue
        job = repository.get_job(name)
        yield f"job {name}"
        yield f"  {job.description}"
        yield f"  tags {dict(sorted(job.tags.items()))}"
        for op in sorted(job.nodes, key=lambda each: each.name):
            yield f"  op {op.definition.name}: {op.definition.description}"
            yield from form(op.definition)
    for sensor in sorted(repository.sensor_defs, key=lambda each: each.name):
        yield f"sensor {sensor.name}, every {sensor.minimum_interval_seconds} s"
        yield f"  {sensor.description}"
    for schedule in sorted(repository.schedule_defs, key=lambda each: each.name):
        yield f"schedule {schedule.name}, {schedule.cron_schedule}"
        yield f"  {schedule.description}"
    for name in sorted(repository.get_top_level_resources()):
        yield f"resource {name}"


def form(op: Any) -> Iterator[str]:
    """The fields of an op's form, with defaults and descriptions."""
    fields = getattr(op.config_schema.config_type, "fields", None)
    for name, field in sorted((fields or {}).items()):
        default = field.default_value if field.default_provided else "required"
        yield f"    {name} = {default}: {field.description}"


def shown(metadata: Any) -> Iterator[str]:
    for name, value in sorted(metadata.items()):
        yield f"  {name}: {getattr(value, 'value', value)}"


def test_the_definitions_are_what_the_snapshot_says(contour: dg.Definitions) -> None:
    now = "\n".join(described(contour)) + "\n"
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(now, encoding="utf-8")
    assert now == SNAPSHOT.read_text(encoding="utf-8"), (
        "what Dagster shows has changed; look at the difference, and write it with make snapshot"
    )


def test_everything_says_what_it_is(contour: dg.Definitions) -> None:
    assert "None" not in {line.strip() for line in described(contour)}
