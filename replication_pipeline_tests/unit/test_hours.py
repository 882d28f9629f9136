"""Hours of the queue turn green and red at the right moment; reasons of parked events come and go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.definitions_load_context import (
    DefinitionsLoadContext,
    DefinitionsLoadType,
)
from dagster._core.definitions.metadata.metadata_value import (
    CodeLocationReconstructionMetadataValue,
)
from dagster._core.definitions.repository_definition import RepositoryLoadData

from replication_pipeline import definitions
from replication_pipeline.defs import purge_events
from replication_pipeline.defs.assets import queue_key
from replication_pipeline.defs.console import Colours, Memory, colour, list_reasons, remember
from replication_pipeline.defs.figures import interval
from replication_pipeline.defs.hours import HOUR, first_hour, key_of, stretches
from replication_pipeline.defs.running import table
from replication_pipeline.postgres.stalled import Group, State, Waiting, stalled
from replication_pipeline.settings import Settings
from replication_pipeline_tests.unit.test_definitions import STATUS

pytestmark = pytest.mark.unit

SINCE = datetime(2026, 3, 1, tzinfo=UTC)
NOON = SINCE + 12 * HOUR
PATIENCE = timedelta(minutes=5)


@pytest.fixture
def settings() -> Settings:
    return Settings(
        contour={"name": "a", "id": 1},
        postgres={"host": "db.invalid"},
        kafka={"bootstrap_servers": "kafka.invalid:9092"},
        tables=["users"],
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def waits(hour: datetime, state: State = "waiting", age: timedelta = HOUR) -> Waiting:
    return Waiting(hour, state, "users", "", 1, oldest=NOON - age)


def look(memory: Memory, *waiting: Waiting, now: datetime = NOON) -> Colours:
    late = stalled(waiting, now=now, patience=PATIENCE)
    return colour(memory, waiting, late, now=now, since=SINCE)


def test_hours_turn_green_once_when_they_are_over() -> None:
    memory = Memory()
    assert len(look(memory).green) == 11, "the last one may still get late commits"
    assert memory.green_up_to == key_of(NOON - HOUR)
    assert look(memory, now=NOON + timedelta(seconds=59)).green == {}
    assert list(look(memory, now=NOON + timedelta(minutes=1)).green) == [key_of(NOON - HOUR)]


def test_an_hour_with_young_events_waits_for_them() -> None:
    memory, young = Memory(), waits(NOON - 2 * HOUR, age=timedelta(seconds=9))
    assert list(look(memory, young).green)[-1] == key_of(NOON - 3 * HOUR)
    assert list(look(memory).green) == [key_of(NOON - 2 * HOUR)]


def test_stalled_hours_turn_red_once_and_green_when_all_is_out() -> None:
    memory, late = Memory(), waits(NOON - 4 * HOUR)
    colours = look(memory, late, waits(NOON, "parked", timedelta(0)))
    assert colours.red == [(NOON - 4 * HOUR,) * 2, (NOON, NOON)]
    assert key_of(NOON - 4 * HOUR) not in colours.green
    assert look(memory, late).red == []
    assert key_of(NOON) in look(memory, late).green or key_of(NOON) not in memory.red
    assert list(look(memory).green) == [key_of(NOON - 4 * HOUR)]
    assert look(memory) == Colours({}, [])


def test_an_hour_that_was_green_turns_red_again() -> None:
    memory = Memory()
    look(memory)
    assert look(memory, waits(SINCE)).red == [(SINCE, SINCE)]


def test_a_red_hour_is_told_again_before_its_run_is_purged() -> None:
    memory, late = Memory(), waits(SINCE)
    assert look(memory, late).red
    assert not look(memory, late, now=NOON + timedelta(days=6)).red
    assert look(memory, late, now=NOON + timedelta(days=8)).red


def test_an_hour_is_told_with_what_happened_in_it() -> None:
    memory, start = Memory(green_up_to=key_of(NOON)), NOON + timedelta(minutes=1)
    for minute, total, age in ((0, 100, 1.0), (10, 140, 9.5), (59, 200, 0.5), (60, 230, 3.0)):
        status = replace(
            STATUS, processed_total=total, oldest_unpublished_seconds=age, unpublished=int(age)
        )
        remember(memory, status, start + timedelta(minutes=minute - 1))
    memory = Memory.read(memory.write())
    assert look(memory, now=start + HOUR).green == {
        key_of(NOON): {"published": 100, "longest_lag_seconds": 9.5, "most_unpublished": 9}
    }
    assert list(memory.hours) == [key_of(NOON + HOUR)]
    assert memory.hours[key_of(NOON + HOUR)].published == 30


@pytest.mark.parametrize("cursor", [None, "", "{}", "[]", '{"hours": {"x": {}}, "newer": 1}'])
def test_a_memory_that_is_lost_is_empty(cursor: str | None) -> None:
    assert Memory.read(cursor) == Memory()


def test_reasons_come_and_go(settings: Settings) -> None:
    memory, group = Memory(), Group("apply", "missing_parent", "users", 3, NOON)
    first = list_reasons(settings, memory, [], [group, group], now=NOON)
    (added,) = first.changes
    assert added.partition_keys == ["apply missing_parent"]
    (request,), (event,) = first.requests, first.events
    assert event.metadata["events_when_listed"].value == 6
    assert "look why the parent is missing" in str(event.metadata["what_to_do"].value)
    assert request.tags["dagster/partition"] == "apply missing_parent"
    assert request.tags["verdict"] == "parked"
    again = list_reasons(settings, memory, ["apply missing_parent"], [group], now=NOON + HOUR)
    assert (again.changes, again.requests) == ([], [])
    (removed,) = list_reasons(settings, memory, ["apply missing_parent"], [], now=NOON).changes
    assert removed.partition_keys == ["apply missing_parent"]
    assert list_reasons(settings, memory, [], [group], now=NOON).requests


def test_many_tables_get_numbers_less_often(settings: Settings) -> None:
    assert interval(settings) == timedelta(minutes=5)
    many = settings.model_copy(update={"tables": {f"t{n}": None for n in range(100)}})
    assert 301 * timedelta(days=1) / interval(many) <= 5_000


def test_a_run_knows_the_hours_of_its_code_server(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server that was loaded weeks ago shows hours that one loaded now doesn't."""
    file = tmp_path / "a.yaml"
    file.write_text(
        "contour: {name: a, id: 1}\nkafka: {bootstrap_servers: 'x:1'}\npostgres: {host: x}\n"
    )
    monkeypatch.setenv("REPLICATION_CONFIG", str(file))
    served = definitions.contour()
    partitions = served.resolve_asset_graph().get(queue_key("a")).partitions_def
    assert isinstance(partitions, dg.HourlyPartitionsDefinition)
    assert partitions.start == first_hour(settings, datetime.now(UTC))
    data = RepositoryLoadData(
        {},
        reconstruction_metadata={
            definitions.HOURS_SINCE: CodeLocationReconstructionMetadataValue(SINCE.isoformat())
        },
    )
    with DefinitionsLoadContext.scoped(
        DefinitionsLoadContext(DefinitionsLoadType.RECONSTRUCTION, data)
    ):
        run = definitions.contour()
    partitions = run.resolve_asset_graph().get(queue_key("a")).partitions_def
    assert isinstance(partitions, dg.HourlyPartitionsDefinition)
    assert partitions.start == SINCE


def test_hours_in_a_row_are_one_stretch() -> None:
    assert stretches([SINCE + HOUR, SINCE, NOON]) == [(SINCE, SINCE + HOUR), (NOON, NOON)]


def test_text_in_a_table_is_no_markup() -> None:
    shown = table(("key", "events"), [('{"id":"a|b<i>"}\n', 1234)]).value
    assert shown == '| key | events |\n|---|---:|\n| {"id":"a\\|b\\<i>"}  | 1,234 |'


def test_purge_keeps_what_is_new_and_the_newest_of_each_asset(
    instance: dg.DagsterInstance,
) -> None:
    for key in ("ours", "ours", "ours", "another"):
        instance.report_runless_asset_event(dg.AssetObservation(key))
        instance.report_runless_asset_event(dg.AssetMaterialization(key))
    ours, ago = [dg.AssetKey("ours")], timedelta(seconds=-1)
    assert purge_events.runless_events(instance, ours, older_than=timedelta(hours=1)) == 0
    assert purge_events.runless_events(instance, ours, older_than=ago, limit=3) == 3
    assert purge_events.runless_events(instance, ours, older_than=ago) == 1
    assert len(instance.fetch_observations(dg.AssetKey("ours"), limit=9).records) == 1
    assert len(instance.fetch_materializations(dg.AssetKey("another"), limit=9).records) == 1
